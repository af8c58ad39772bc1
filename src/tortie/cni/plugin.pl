# The CNI plugin's short cut: asks the agent, and prints its answer. It is plugin.py again, as far as
# that goes when all is well, in an interpreter that starts in a quarter of the time. Whatever it
# does not know what to do with is left to plugin.py, which follows in the same file.
#
# No module is loaded (each takes as long as the whole exchange), so constants of the C library
# are written in by `tortie cni install`, as the places are.

my $SOCKET = '/run/tortie/attach.sock';
my $PYTHON = '/usr/bin/python3';
my $TIMEOUT_SECONDS = 110;
my $REQUEST_MAX_BYTES = 1048576;
my $AF_UNIX = 1;
my $SOCK_STREAM = 1;
my $O_PATH = 2097152;

my @NAMES = qw(CNI_CONTAINERID CNI_NETNS CNI_IFNAME CNI_ARGS CNI_PATH CNI_NETNS_OVERRIDE);
my $LOADER = 'import sys; sys.argv = sys.argv[1:]; '
    . 'exec(open(sys.argv[0], encoding="utf-8").read().partition("\n__END__\n")[2])';

$SIG{PIPE} = 'IGNORE';
my $command = $ENV{CNI_COMMAND};
otherwise() if @ARGV || !defined $command || $command eq '' || $command eq 'VERSION';

my $config = '';
while (sysread(STDIN, $config, 65536, length $config)) {}

my ($plugin) = $0 =~ m{([^/]*)\z};
my %said = (plugin => $plugin, command => $command, config => $config);
@said{@NAMES} = @ENV{@NAMES};
for (values %said) {
    next unless defined;
    my $copy = $_;
    otherwise() unless utf8::decode($copy);
    s/(["\\])/\\$1/g;
    s/\n/\\n/g;
    s/\t/\\t/g;
    s/([\x00-\x1f])/sprintf '\\u%04x', ord $1/ge;
}
my $pairs = join ',', map { qq("$_":"$said{$_}") } grep { defined $said{$_} } @NAMES;
# The agent may not see the runtime's mounts; it finds the namespace through us.
my $handle = -1;
if (defined $ENV{CNI_NETNS} && sysopen my $opened, $ENV{CNI_NETNS}, $O_PATH) {
    $handle = fileno $opened;
    *NAMESPACE = $opened;    # open until we end
}
my $line = qq({"call":"cni","plugin":"$said{plugin}","command":"$said{command}",)
    . qq("environment":{$pairs},"handle":$handle,"config":"$said{config}"}\n);

otherwise() if length $line > $REQUEST_MAX_BYTES;

$SIG{ALRM} = sub { otherwise("no answer from the agent at $SOCKET: timed out") };
alarm $TIMEOUT_SECONDS;
socket(my $agent, $AF_UNIX, $SOCK_STREAM, 0) or otherwise();
connect($agent, pack 'S a*', $AF_UNIX, "$SOCKET\0") or otherwise();
while (length $line) {
    my $sent = syswrite($agent, $line) or otherwise();
    substr($line, 0, $sent) = '';
}
my $answer = '';
until ($answer =~ /\n\z/) {
    sysread($agent, $answer, 65536, length $answer) or otherwise();
}
alarm 0;

$answer =~ /\A\{"(result|error)":(?!\{"kind":)(.*)\}\n\z/s or otherwise();
my ($outcome, $text) = ($1, $2);
unless ($outcome eq 'result' && $text eq 'null') {
    $text .= "\n";
    while (length $text) {
        my $written = syswrite(STDOUT, $text) or last;
        substr($text, 0, $written) = '';
    }
}
exit($outcome eq 'error');

# The whole plugin, from the beginning; what was read is there to be read again.
# With a reason why the agent counts as away, it is not asked again.
sub otherwise {
    my ($away) = @_;
    alarm 0;    # it would outlive this interpreter
    if (defined $config) {
        pipe my $reading, my $writing or exit 1;
        my $child = fork;
        defined $child or exit 1;
        if (!$child) {
            close $reading;
            syswrite $writing, $config;
            exit;
        }
        close $writing;
        open STDIN, '<&', $reading;
    }
    $ENV{TORTIE_AGENT_AWAY} = $away if defined $away;
    exec { $PYTHON } $PYTHON, '-IS', '-c', $LOADER, $0, @ARGV;
    exit 127;
}
