"""`tortie completion bash|zsh|fish`: scripts that ask `tortie __complete` for candidates."""

from tortie.ctl.complete import SHELLS
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.lib.errors import InvalidInput

_BASH = """\
# bash completion of tortie; in /etc/bash_completion.d, or: source <(tortie completion bash)
_tortie() {
    local found IFS=$'\\n' words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    # "=" is a word of its own for bash; only the part behind it is to be completed.
    found=($(tortie __complete -- "${words[@]}" 2>/dev/null))
    if [ "${found[0]}" = ":files" ]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
        return
    fi
    COMPREPLY=("${found[@]}")
    case "${COMPREPLY[0]}" in *=) compopt -o nospace 2>/dev/null ;; esac
}
complete -F _tortie tortie
"""

_ZSH = """\
#compdef tortie
# zsh completion of tortie; as _tortie in a directory of $fpath
_tortie() {
    local -a found
    found=("${(@f)$(tortie __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ "${found[1]}" == ":files" ]]; then
        _files
    elif [[ -n "${found[1]}" ]]; then
        compadd -- "${found[@]}"
    fi
}
if [ "$funcstack[1]" = "_tortie" ]; then _tortie "$@"; else compdef _tortie tortie; fi
"""

_FISH = """\
# fish completion of tortie; as tortie.fish in ~/.config/fish/completions
function __tortie_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found (tortie __complete -- $words[2..-1] 2>/dev/null)
    if test "$found[1]" = ":files"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\\n' $found
    end
end
complete -c tortie -f -a '(__tortie_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def main(given: Given, screen: Screen) -> int:
    shell = given.words[0]
    if shell not in SCRIPTS:
        raise InvalidInput(f"there is completion for {', '.join(SHELLS)}, not for {shell!r}")
    screen.out.write(SCRIPTS[shell])
    return 0
