"""finwait on a made-up machine: every probe has one answer for ever. Arguments as of finwait itself."""

from __future__ import annotations

import sys

from finwait.cli.main import main
from finwait.errors import Phrase
from finwait.sources import bpf_probes, diag_probes, host_probes, machine
from finwait.table.capability import Capability, Machine, cannot_tell, no, yes

NO_BPF = no(Phrase("{capability} is missing", capability="libbpf"), bpf_probes._PYTHON_REMEDY)
ANSWERS = {
    "socket_marks": no(Phrase(diag_probes._NO_NET_ADMIN), diag_probes._NET_ADMIN),
    "sock_destroy": no(Phrase(diag_probes._NO_NET_ADMIN), diag_probes._NET_ADMIN),
    "other_processes": no(Phrase(host_probes.HIDDEN_DESCRIPTORS, count=23, pid=1), host_probes._PTRACE),
    "other_namespaces": cannot_tell(Phrase(host_probes.NO_OTHER_NAMESPACE, count=23), host_probes._PTRACE),
    "cgroup2": yes(Phrase("at {path}", path="/sys/fs/cgroup\x1b]52;c;Zm9v\x07")),
    "libbpf": no(Phrase(bpf_probes.NO_CTYPES, reason="No module named '_ctypes'"), bpf_probes._PYTHON_REMEDY),
    "bpf_count": NO_BPF,
    "bpf_list": NO_BPF,
    "bpf_descriptors": NO_BPF,
    "bpf_owners": NO_BPF,
    "bpf_trace": NO_BPF,
    "bpf_namespaces": NO_BPF,
}


def fixed_machine() -> Machine:
    known = [Capability(name, gives, ANSWERS.get(name, yes())) for name, (gives, _) in machine.PROBES.items()]
    return Machine(known, host="web-1", kernel="6.1.0-18-amd64", finwait="0.1.0", python="3.11.2", user=1000)


if __name__ == "__main__":
    machine.capabilities = fixed_machine
    sys.exit(main())
