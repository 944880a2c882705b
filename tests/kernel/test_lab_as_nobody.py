"""finwait lab and selftest as an ordinary user, in a user namespace; and the word where there may be none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.kernel.bad_input import IN_OWN_MOUNTS, NOBODY, one_line, run_bytes
from tests.kernel.finwait_command import COMMAND

WITHOUT = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--inh-caps=-all",
           "--bounding-set=-all", "--")  # fmt: skip


def _closed_to_nobody() -> Path | None:
    """The first directory above the interpreter that only its owner may enter, as /root is."""
    above = [*reversed(Path(sys.base_prefix).parents), Path(sys.base_prefix)]
    return next((path for path in above if not path.stat().st_mode & 0o001), None)


def _reachable() -> str:
    """Shell commands, for a mount namespace of its own, after which nobody reaches the interpreter."""
    closed = _closed_to_nobody()
    if closed is None:
        return ":"
    return f"""\
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/python
mount --bind {sys.base_prefix} /mnt/python
mount -t tmpfs -o mode=755 none {closed}
mkdir -p {sys.base_prefix}
mount --bind /mnt/python {sys.base_prefix}"""


def as_nobody(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of finwait, which nobody runs without any capability."""
    script = f'{_reachable()}\nexec "$@"'
    done = run_bytes([*IN_OWN_MOUNTS, script, "sh", *WITHOUT, *COMMAND, *arguments], cwd="/")
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def _orphans() -> int:
    with open("/proc/net/sockstat", encoding="ascii") as file:
        return int(file.read().partition("orphan ")[2].split()[0])


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_nobody_has_a_lab_and_runs_a_command_there(family: str) -> None:
    words = ("TIME_WAIT=3", "SYN_RECV=5", "CLOSING=7", "LISTEN=2")
    code, out, err = as_nobody("lab", family, *words, "--", "sh", "-c", "id -u; ss -tanH; exit 23")
    assert (code, err) == (23, "")
    uid, *lines = out.splitlines()
    states = [line.split()[0] for line in lines]
    assert {state: states.count(state) for state in states} == {
        "TIME-WAIT": 3,
        "SYN-RECV": 5,
        "CLOSING": 7,
        "LISTEN": 2,
    }
    assert uid == "0"  # of the user namespace, where it is nobody in truth


def test_what_nobodys_lab_made_goes_with_it() -> None:
    before = _orphans()
    assert as_nobody("lab", "FIN_WAIT1=31", "LAST_ACK=29", "--", "true") == (0, "", "")
    assert _orphans() <= before


def test_nobody_sees_an_exchange_and_a_flood() -> None:
    code, out, err = as_nobody("lab", "reuseport-imbalance", "--", "ss", "-tlnH")
    assert (code, err) == (0, "")
    assert sorted(line.split()[1] for line in out.splitlines()) == ["0", "0", "0", "17"]
    code, out, err = as_nobody("lab", "close", "--transcript", "-", "--", "true")
    assert (code, err, "TIME-WAIT" in out) == (0, "", True)


def test_nobody_is_told_commands_that_enter_without_privilege() -> None:
    _, out, _ = as_nobody("lab", "CLOSE_WAIT=17", "--hold", "0")
    _, count, ss, _ = out.splitlines()
    assert count.split()[3:] == ["-n", "-U", "--preserve-credentials", "finwait"]
    assert ss.split()[3:] == ["-n", "-U", "--preserve-credentials", "ss", "-tan"]


def test_nobody_enters_a_lab_as_it_says() -> None:
    script = """\
exec 9< <("$@" lab CLOSE_WAIT=17)
lab=$!
read -r -u 9; read -r -u 9; read -r -u 9 command
${command/ss -tan/ss -tanH}
kill "$lab"; wait "$lab"
"""
    words = [*IN_OWN_MOUNTS, f'{_reachable()}\nexec "$@"', "sh", *WITHOUT, "bash", "-c", script, "bash", *COMMAND]
    done = run_bytes(words, cwd="/")
    assert (done.stdout.count(b"CLOSE-WAIT"), done.stderr) == (17, b"")


def test_nobodys_selftest_agrees() -> None:
    code, out, err = as_nobody("selftest")
    assert (code, err) == (0, "")
    assert out.count("agrees") == 8
    assert out.count("not asked") == 2  # bpf


FORBIDDEN = 'echo 0 > /proc/sys/user/max_user_namespaces\nexec "$@"'


@pytest.mark.parametrize(("command", "code"), [((), 5), (("--", "true"), 125)])
def test_without_user_namespaces_one_line_says_what_it_takes(command: tuple[str, ...], code: int) -> None:
    """The limit is that of a user namespace of its own, which ends with the command."""
    before = Path("/proc/sys/user/max_user_namespaces").read_text(encoding="ascii")
    inside = ("unshare", "--user", f"--map-user={NOBODY}", "--keep-caps", "sh", "-ec", FORBIDDEN, "sh")
    done = run_bytes([*inside, *COMMAND, "lab", "TIME_WAIT=3", *command])
    assert (done.returncode, done.stdout) == (code, b""), done
    said = one_line(done.stderr)
    assert said.startswith(
        "not permitted to make a network namespace (unshare: No space left on device); it takes root,"
    )
    assert "user.max_user_namespaces" in said
    assert Path("/proc/sys/user/max_user_namespaces").read_text(encoding="ascii") == before


def test_the_interpreter_is_that_of_this_run() -> None:
    """Else nobody would test another finwait."""
    code, out, _ = as_nobody(
        "lab", "LISTEN=1", "--", sys.executable, "-c", "import sys, os; print(sys.version, os.getuid())"
    )
    assert (code, out) == (0, f"{sys.version} 0\n")
