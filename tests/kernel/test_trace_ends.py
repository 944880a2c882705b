"""`finwait trace` of every way to open and to end a connection, with its cause."""

from __future__ import annotations

from collections import Counter

from tests.kernel.tracer import (
    BEGUN,
    PORT,
    Lab,
    lab,
    steps,
    times,
    told,
)

__all__ = ["lab"]  # the fixture


# -- ways to open and to end


def test_a_refused_connection_is_told_with_its_error(lab: Lab) -> None:
    client = lab.actor(place := lab.place(), "the-client")
    tracer = lab.tracer(place=place)
    for address in ("127.0.0.1", "::1"):
        family = "socket.AF_INET6" if ":" in address else "socket.AF_INET"
        code = f"one = socket.socket({family}); answer = [one.connect_ex(('{address}', 4999)), cookie(one)]"
        number, cookie = client.do(code)
        tracer.catch_up(client)
        assert number == 111
        rows = [row for row in tracer.rows if row["local_address"] == address]
        assert told(rows) == [("closed>syn_sent", "active_open"), ("syn_sent>closed", "rcv_rst")]
        assert [row["error"] for row in rows] == [None, "ECONNREFUSED"]
        assert {(row["cookie"], row["pid"], row["peer_port"]) for row in rows} == {(cookie, client.pid, 4999)}
        assert len({row["local_port"] for row in rows} - {None}) == 1
    assert len(tracer.stop()) == 4


def test_a_connection_that_is_aborted_is_told_at_both_ends(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    client.do("held = [connect() for _ in range(5)]")
    server.do("held = [server.accept()[0] for _ in range(5)]")
    client.do("for one in held: abort(one)")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert steps(rows) == times(5, *BEGUN) + times(10, "established>closed")
    ends = [row for row in rows if row["to"] == "closed"]
    causes = Counter((row["peer_port"] == PORT, row["why"], row["error"]) for row in ends)
    assert causes == {(True, "abort", None): 5, (False, "rcv_rst", "ECONNRESET"): 5}


def test_half_a_connection_is_closed_by_shutdown(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    client.do("one = connect(); one.shutdown(socket.SHUT_WR)")
    server.do("one, _ = server.accept(); assert one.recv(1) == b''; one.sendall(b'x' * 9999)")
    client.do("left = 9999\nwhile left: left -= len(one.recv(left))")
    server.do("one.close()")
    client.do("assert one.recv(1) == b''; one.close()")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert told(rows, peer_port=PORT) == [
        ("closed>syn_sent", "active_open"), ("syn_sent>established", "rcv_syn_ack"),
        ("established>fin_wait_1", "shutdown_write"), ("fin_wait_1>fin_wait_2", "rcv_ack_of_fin"),
        ("fin_wait_2>time_wait", "rcv_fin"),
    ]  # fmt: skip
    assert told(rows, local_port=PORT) == [
        ("listen>syn_received", "rcv_syn"), ("syn_received>established", "rcv_ack_of_syn"),
        ("established>close_wait", "rcv_fin"), ("close_wait>last_ack", "close"), ("last_ack>closed", "rcv_ack_of_fin"),
    ]  # fmt: skip


def test_a_connection_whose_ends_close_at_once_goes_through_closing(lab: Lab) -> None:
    """Both FINs are lost; the client's comes again to a server that has sent its own."""
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    client.do("one = connect(); be_deaf(one)")
    server.do("one, _ = server.accept(); be_deaf(one)")
    client.do("one.shutdown(socket.SHUT_WR)")
    server.do("one.shutdown(socket.SHUT_WR)")
    tracer.wait_for("established>fin_wait_1", 2)
    server.do("hear(one)")
    tracer.wait_for("fin_wait_1>closing")
    client.do("hear(one)")
    tracer.wait_for("closing>time_wait")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert told(rows, local_port=PORT)[2:] == [
        ("established>fin_wait_1", "shutdown_write"), ("fin_wait_1>closing", "rcv_fin"),
        ("closing>time_wait", "rcv_ack_of_fin"),
    ]  # fmt: skip
    assert told(rows, peer_port=PORT)[2:] == [
        ("established>fin_wait_1", "shutdown_write"), ("fin_wait_1>fin_wait_2", "rcv_ack_of_fin"),
        ("fin_wait_2>time_wait", "rcv_fin"),
    ]  # fmt: skip
    assert len(rows) == 10


def test_fast_open_is_told_as_such(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place(sysctls={"net.ipv4.tcp_fastopen": 0x607}))
    tracer = lab.tracer(place=place)
    client.do("one = socket.socket(); one.sendto(b'x', 0x20000000, ('127.0.0.1', 3000))")  # MSG_FASTOPEN
    server.do("one, _ = server.accept(); assert one.recv(1) == b'x'; answer = cookie(one)")
    tracer.wait_for("syn_received>established")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert told(rows, local_port=PORT) == [
        ("listen>syn_received", "rcv_syn_fast_open"), ("syn_received>established", "rcv_ack_of_syn"),
    ]  # fmt: skip
    assert told(rows, peer_port=PORT) == [("closed>syn_sent", "active_open"), ("syn_sent>established", "rcv_syn_ack")]
    assert {row["pid"] for row in rows if row["peer_port"] == PORT} == {client.pid}
    assert all(row["local_port"] for row in rows)


def test_a_syn_cookie_leads_from_the_listener_to_established(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place(sysctls={"net.ipv4.tcp_syncookies": 2}))
    tracer = lab.tracer(place=place)
    client.do("held = [connect() for _ in range(11)]")
    cookies = server.do("held = [server.accept()[0] for _ in range(11)]; answer = [cookie(one) for one in held]")
    tracer.catch_up(client)
    rows = tracer.stop()
    assert steps(rows) == times(11, *BEGUN[:2], "listen>established")
    by_cookie = [row for row in rows if row["from"] == "listen"]
    assert {row["why"] for row in by_cookie} == {"rcv_ack_of_cookie"}
    assert {row["in_from_us"] for row in by_cookie} == {None}
    assert sorted(row["cookie"] for row in by_cookie) == sorted(cookies)


def test_a_time_wait_whose_ports_are_used_again_ends_before_the_new_connection(lab: Lab) -> None:
    client, server = lab.pair(place := lab.place())
    tracer = lab.tracer(place=place)
    code = """
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
one.bind(("127.0.0.1", 4000))
one.connect(("127.0.0.1", 3000))
"""
    server.begin("one, _ = server.accept(); one.close()")  # the server's end is left in TIME_WAIT
    client.do(f"{code}assert one.recv(1) == b''; one.close()")
    server.answer()
    tracer.wait_for("last_ack>closed")
    tracer.wait_for("fin_wait_2>time_wait")
    server.begin("one, _ = server.accept()")
    client.do(code)
    server.answer()
    tracer.catch_up(client)
    of_server = told(tracer.stop(), local_port=PORT)
    assert of_server[-4:] == [
        ("fin_wait_2>time_wait", "rcv_fin"), ("time_wait>closed", "rcv_syn"), ("listen>syn_received", "rcv_syn"),
        ("syn_received>established", "rcv_ack_of_syn"),
    ]  # fmt: skip


SLOW_LINK = "tc qdisc add dev lo root tbf rate 8kbit burst 1600 latency 10s"  # a FIN takes some 60 ms


def test_both_ends_are_in_closing_where_their_fins_cross(lab: Lab) -> None:
    client = lab.actor(place := lab.place(), "the-client")
    tracer = lab.tracer(place=place)
    client.do("server = listen(); one = connect(); other, _ = server.accept(); port = one.getsockname()[1]")
    place.run(*SLOW_LINK.split())
    client.do(
        "socket.socket(type=socket.SOCK_DGRAM).sendto(bytes(1500), ('127.0.0.1', 9))\n"  # now the link is busy
        "one.shutdown(socket.SHUT_WR)\n"
        "other.shutdown(socket.SHUT_WR)\n"
        "answer = port"
    )
    tracer.wait_for("closing>time_wait", 2)
    port = client.do("answer = port")
    closing = [
        ("established>fin_wait_1", "shutdown_write"),
        ("fin_wait_1>closing", "rcv_fin"),
        ("closing>time_wait", "rcv_ack_of_fin"),
    ]
    assert told(tracer.rows, local_port=port)[2:] == closing
    assert told(tracer.rows, local_port=PORT, peer_port=port)[2:] == closing
