"""The files that set sysctls at boot: /etc/sysctl.conf and the directories sysctl.d (man 5 sysctl.d, man 8 sysctl)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORIES = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
MAIN_FILE = "etc/sysctl.conf"
Setting = tuple[str, int, str, str]


def read_sysctl_files(root: str = "/") -> tuple[Setting, ...]:
    """(file, line, name, value) of each setting below `root`, in the order in which they apply: files of sysctl.d by name,
    then sysctl.conf. Of files with one name the first directory's hides the others; a file that is linked twice counts
    once. What cannot be read is left out.
    """  # fmt: skip
    found: dict[str, str] = {}
    for directory in DIRECTORIES:
        path = os.path.join(root, directory)
        try:
            names = os.listdir(path)
        except OSError:
            continue
        for name in names:
            if name.endswith(".conf"):
                found.setdefault(name, os.path.join(path, name))
    main = os.path.join(root, MAIN_FILE)
    paths = [found[name] for name in sorted(found) if not os.path.exists(main) or not _same(found[name], main)]
    return tuple(setting for path in (*paths, main) for setting in _settings(path))


def parse_setting(line: str) -> tuple[str, str] | None:
    """Name and value of one line, ``net.ipv4.tcp_mem = 1 2 3``; None for a comment, an empty or a broken one.

    A ``-`` in front means that errors do not matter. Of ``/`` and ``.`` the one that comes first parts the name, the other
    stands for a dot of an interface's name.
    """
    name, equals, value = line.partition("=")
    name = name.strip().removeprefix("-").strip()
    if not equals or not name or name[0] in "#;" or any(letter.isspace() for letter in name):
        return None
    if "/" in name.partition(".")[0]:
        name = name.strip("/").translate(str.maketrans("/.", "./"))
    return name, " ".join(value.split())


def _settings(path: str) -> Iterator[Setting]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for number, line in enumerate(lines, 1):
        setting = parse_setting(line)
        if setting is not None:
            yield path, number, *setting


def _same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
