"""The datastore in one SQLite file, for one machine: no server to install.

    file        the tables, and every statement on them (synchronous)
    worker      a thread that runs writes one after the other, under the file lock
    bell        how a commit in one process wakes the watches of all others
    client      the `Client` made of these

Beside `datastore.db` live SQLite's own `-wal` and `-shm`, and `-bell`: an
empty-looking file whose `flock` orders writers of all processes, and whose
modification wakes their readers. Nothing polls: an idle process makes no
system call.
"""

from tortie.datastore.embedded.client import EmbeddedClient

__all__ = ["EmbeddedClient"]
