"""What a key lets its owner do, and what it does not; and that keys are where they should be."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import zmq
from conftest import Command, processes_marked, wait_until
from zmq.utils import z85

from dispatcher import server
from dispatcher.keys import KeyPair
from dispatcher.messages import (
    VERSION,
    Ask,
    Cancel,
    Crash,
    Done,
    Everywhere,
    Function,
    Hello,
    Kind,
    Leave,
    Message,
    Outcome,
    Printed,
    Refused,
    Report,
    Results,
    Returned,
    Role,
    Run,
    Scale,
    Submit,
    Task,
    ToClient,
    Welcome,
)
from dispatcher.processes import Plan, Process
from dispatcher.security import dial
from dispatcher.wire import encode
from mirai import DaemonCrashed, Daemons, connect, daemons, everywhere, mirai
from mirai._connection import Connection
from mirai._link import Link

IDS = tuple(range(1, 200))
"""More than all the ids and keys that are in use."""
NOBODY = 65_534
"""Another user."""


class Peer:
    """A peer that speaks the protocol, and says whatever it likes."""

    def __init__(self, url: str, server: str, pair: KeyPair) -> None:
        self.link = Link(url, pair, server, Message)
        self.heard: list[Message] = []

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.link.send(message)

    def hear(self, kind: type[Any]) -> Any:
        """Wait for a message of this kind, and return it."""
        until = time.monotonic() + 15
        while not (found := [each for each in self.heard if isinstance(each, kind)]):
            assert time.monotonic() < until and not self.link.ended, self.heard
            self.link.wait(1)
            self.heard += self.link.receive()
        return found[-1]

    def join(self) -> Peer:
        self.say(Hello(VERSION, "elsewhere", 1))
        self.hear(Welcome)
        return self

    def is_denied(self) -> bool:
        """Whether the dispatcher does not know the key."""
        until = time.monotonic() + 15
        while not (self.link.ended or self.link.proved):
            assert time.monotonic() < until
            self.link.wait(1)
        return self.link.denied


Visit = Callable[[KeyPair], Peer]


@pytest.fixture
def visits() -> Iterator[Callable[[str, str], Visit]]:
    """Connect to a dispatcher with any keys."""
    peers: list[Peer] = []

    def to(url: str, server: str) -> Visit:
        def visit(pair: KeyPair) -> Peer:
            peers.append(Peer(url, server, pair))
            return peers[-1]

        return visit

    yield to
    for peer in peers:
        peer.link.close()


def key_of(pool: Daemons, role: str) -> KeyPair:
    assert pool._keys is not None
    return pool._keys.guests[role]


def server_key(pool: Daemons) -> str:
    assert pool._keys is not None
    return pool._keys.server.public


class Gate:
    """A task that waits for a file, and says that it runs by another."""

    def __init__(self, directory: Path) -> None:
        self.go, self.begun = directory / "go", directory / "begun"

    def task(self) -> Callable[[], str]:
        def work(go: str = str(self.go), begun: str = str(self.begun)) -> str:
            open(begun, "w").close()
            while not os.path.exists(go):
                time.sleep(0.001)
            return "true"

        return work


# ── what each role may do ────────────────────────────────────────────────────────────────

CALL = Task(1, 1, b"")
NOT_FOR_DAEMONS: list[Message] = [
    Submit((CALL,), (Function(1, "f", b""),)),
    Everywhere((1,), CALL),
    Cancel(IDS),
    Ask(1),
    Scale(0),
]
NOT_FOR_CLIENTS: list[Message] = [
    Done(tuple(Outcome(id, Kind.VALUE, b"false") for id in IDS)),
    Returned(IDS),
    Printed(1, "false"),
    Leave(),
]


def test_a_key_is_for_one_role_and_ones_own_tasks(
    tmp_path: Path, visits: Callable[[str, str], Visit]
) -> None:
    """One pool, in which a task runs and another waits the whole time, unmoved."""
    gate = Gate(tmp_path)
    with daemons(1, "tcp://127.0.0.1:0") as pool:
        visit = visits(pool.url, server_key(pool))
        daemon, client = key_of(pool, "daemon"), key_of(pool, "client")
        running = mirai(gate.task())
        wait_until(gate.begun.exists)
        _other_role(visit, daemon, NOT_FOR_DAEMONS)
        _other_role(visit, client, NOT_FOR_CLIENTS)
        assert pool.status().executing == 1
        _others_answers(visit, daemon, pool)
        waiting = mirai(os.getpid)
        pool.status()  # what is asked later is answered later
        _others_tasks(visit, client)
        assert (pool.status().executing, pool.status().awaiting) == (1, 1)
        assert not running.done() and not waiting.done()
        gate.go.touch()
        assert running.result(timeout=20) == "true"
        assert waiting.result(timeout=20) == pool.status().daemons[0].pid


def _other_role(visit: Visit, pair: KeyPair, messages: list[Message]) -> None:
    """What the other role may say costs whoever says it the connection."""
    for message in messages:
        peer = visit(pair).join()
        peer.say(message)
        assert isinstance(peer.hear(Refused), Refused), message
        assert not [each for each in peer.heard if isinstance(each, (Run, Report, Results))]


def _others_answers(visit: Visit, pair: KeyPair, pool: Daemons) -> None:
    """A daemon cannot answer, hand back or print for a task that another one has."""
    rogue = visit(pair).join()
    pool.wait(2, timeout=20)
    rogue.say(
        Done(tuple(Outcome(id, Kind.VALUE, b"false") for id in IDS)),
        Done(tuple(Outcome(id, Kind.CANCELLED) for id in IDS)),
        Returned(IDS),
        *(Printed(id, "false") for id in IDS),
        Leave(),  # the answer to this tells that all that came before has been read
    )
    pool_now = pool.status
    wait_until(lambda: pool_now().connections == 1 or "leaving" in map(_state, pool_now().daemons))
    assert pool_now().executing == 1
    rogue.link.close()
    wait_until(lambda: pool_now().connections == 1)


def _state(daemon: Any) -> str:
    return str(daemon.state)


def _others_tasks(visit: Visit, pair: KeyPair) -> None:
    """A client cannot cancel, forget or overtake another's tasks, and hears nothing of them."""
    guest = visit(pair).join()
    guest.say(Cancel(IDS), Ask(1))
    report = guest.hear(Report).pool
    assert (report.executing, report.awaiting, report.completed) == (1, 1, 0)
    for message in (Submit((), (), IDS), Submit((Task(3, 1, b""),))):  # others' functions
        other = visit(pair).join()
        other.say(message)
        other.hear(Refused)
    # The same id as another's, of a function with the same number: they are this client's own.
    guest.say(Submit((Task(1, 1, b"", tags=("nowhere",)),), (Function(1, "f", b""),)), Cancel((1,)))
    guest.say(Ask(2))
    while guest.hear(Report).number < 2:
        guest.heard.clear()
    assert not [each for each in guest.heard if isinstance(each, Results)]


def test_guests_start_no_daemons_where_there_are_none(
    mark: str, visits: Callable[[str, str], Visit]
) -> None:
    """What they ask for besides is in test_standing."""
    with daemons(0, "tcp://127.0.0.1:0") as pool:
        guest = visits(pool.url, server_key(pool))(key_of(pool, "client")).join()
        guest.say(Scale(1), Ask(1))
        guest.hear(Report)
        pool.status()  # the answer comes after what was asked before
        assert len(processes_marked(mark)) == 1


# ── keys end with what they were drawn for ───────────────────────────────────────────────


def own_pairs() -> dict[str, tuple[str, str]]:
    """Return the keys of the daemon that this task runs on: its memory is open to it."""
    from mirai import _profiles

    found = {}
    assert _profiles._home is not None
    found["inner"] = _profiles._home.pair.public, _profiles._home.pair.secret
    frame: Any = sys._getframe()
    while frame is not None:
        for value in frame.f_locals.values():
            if isinstance(value, dict) and "secret" in value and "watermark" in value:
                found["daemon"] = value["public"], value["secret"]
        frame = frame.f_back
    return found


def home_server() -> str:
    """Return the public key of the dispatcher that the daemon of this task belongs to."""
    from mirai import _profiles

    assert _profiles._home is not None
    return _profiles._home.server


@pytest.mark.parametrize("url", [None, "tcp://127.0.0.1:0"])
def test_the_keys_of_a_daemon_end_with_it(
    url: str | None, visits: Callable[[str, str], Visit]
) -> None:
    with daemons(1, url) as pool:
        visit = visits(pool.url, mirai(home_server).result())
        pairs = {name: KeyPair(*pair) for name, pair in mirai(own_pairs).result().items()}
        assert set(pairs) == ({"daemon", "inner"} if url else {"inner"})
        if url:
            assert visit(pairs["daemon"]).is_denied()  # it is for one connection
        left_behind = visit(pairs["inner"]).join()
        left_behind.say(Ask(1))
        left_behind.hear(Report)
        with pytest.raises(DaemonCrashed):
            mirai(os._exit, 1).result()
        assert mirai(abs, -1).result() == 1
        for pair in pairs.values():
            assert visit(pair).is_denied()
        left_behind.say(Ask(2))
        left_behind.hear(Refused)


@pytest.fixture
def served() -> Iterator[tuple[server.Server, KeyPair, KeyPair]]:
    """A server that the test turns itself, its keys, and those of its client."""
    pair, client = KeyPair.new(), KeyPair.new()
    plan = Plan(0, [], "", {})
    it = server.Server(server.Config("ipc", pair.public, pair.secret, client.public, plan))
    yield it, pair, client
    it.close()


def test_who_has_proved_a_key_that_ends_before_he_says_hello_is_refused(
    served: tuple[server.Server, KeyPair, KeyPair],
) -> None:
    it, pair, client = served
    link = Link(it.url, client, pair.public, ToClient)
    while not link.proved:
        it.turn(0.01)
        link.wait(0.01)
    it._router.gate.revoke(client.public)
    link.send(Hello(VERSION, "here", 1))
    heard: list[Message] = []
    while not heard:
        it.turn(0.01)
        heard += link.receive()
    link.close()
    assert heard == [Refused("this key is not valid any more")]


def test_what_a_dispatcher_is_told_does_not_show_its_secret() -> None:
    it = config("ipc")
    assert it.secret not in repr(it) + str(it) + f"{[it]}"


def test_the_keys_of_a_daemon_that_has_never_joined_end_with_it(
    served: tuple[server.Server, KeyPair, KeyPair],
) -> None:
    it, _, _ = served
    process = Process([sys.executable, "-c", ""], b"")
    told = it.introduce(process)
    publics = [told["public"], told["inner"]["public"]]
    assert None not in [it._router.gate.owner(public) for public in publics]
    process.wait()
    it.disown(process, Crash("it has ended"))
    process.close()
    assert [it._router.gate.owner(public) for public in publics] == [None, None]


def test_a_peer_that_reads_nothing_does_not_hold_up_the_end(
    served: tuple[server.Server, KeyPair, KeyPair],
) -> None:
    it, pair, client = served
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    silent = dial(context, client, pair.public)
    silent.rcvhwm = 1
    silent.connect(it.url)
    silent.send_multipart(encode(Hello(VERSION, "here", 1)))
    while not it._peers:
        it.turn(0.01)
    (route,) = it._router._peers
    for _ in range(16):  # more than all buffers on the way can hold
        assert it._router.send(route, Printed(1, "x" * (1 << 20)))
    begun = time.monotonic()
    it.close()
    assert time.monotonic() - begun < 10
    context.destroy(linger=0)


# ── where keys are ───────────────────────────────────────────────────────────────────────


def look_around() -> list[bytes]:
    """Return what a task finds in its environment, and in each of its descriptors."""
    import fcntl
    import termios

    found = [repr(sorted(os.environ.items())).encode()]
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            found.append(target.encode())
            if "memfd:" in target or target.startswith("/"):
                if os.path.getsize(f"/proc/self/fd/{name}") < 1 << 20:
                    found.append(os.pread(fd, 1 << 20, 0))
                continue
            if target.startswith("socket:"):
                with socket.socket(fileno=os.dup(fd)) as copy:
                    copy.setblocking(False)
                    found.append(copy.recv(1 << 20, socket.MSG_PEEK))
            elif target.startswith("pipe:"):
                size = bytearray(4)
                fcntl.ioctl(fd, termios.FIONREAD, size)
                if waiting := int.from_bytes(size, sys.byteorder):
                    found.append(os.read(fd, waiting))
    return found


def forms(secret: str) -> list[bytes]:
    """Return a key in the forms in which it could be found."""
    raw = z85.decode(secret)
    return [secret.encode(), raw, raw.hex().encode(), raw.hex().upper().encode()]


def what_others_see(pid: int) -> bytes:
    """Return what the system shows of a process."""
    seen = b""
    for name in ("cmdline", "environ", "comm", "maps", "status"):
        seen += Path(f"/proc/{pid}/{name}").read_bytes()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            seen += os.fsencode(os.readlink(link))
    return seen


def files_below(*directories: Path) -> dict[Path, bytes]:
    """Return what files hold, but for huge ones, and those that are gone or not for us."""
    found = {}
    for path in (path for directory in directories for path in directory.rglob("*")):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 26:
                found[path] = path.read_bytes()
    return found


def names_below(*directories: Path) -> bytes:
    """Return what files, directories and links are called, and what links lead to."""
    found = b""
    for path in (path for directory in directories for path in directory.rglob("*")):
        found += os.fsencode(path) + b"\n"
        with contextlib.suppress(OSError):
            found += os.fsencode(os.readlink(path)) + b"\n"
    return found


@pytest.fixture
def sent_by_value() -> Iterator[None]:
    """Let daemons have functions of this module that cannot import it."""
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    yield
    cloudpickle.unregister_pickle_by_value(here)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for all that processes may write, as their working directory and by variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    monkeypatch.setenv("MIRAI_LOG", "debug")
    return tmp_path


def check_nowhere(secrets: list[str], home: Path, pids: list[int], seen: list[bytes]) -> None:
    """Fail where a secret can be found other than in a connection file that is 0600."""
    places = {f"process {pid}": what_others_see(pid) for pid in pids}
    places |= {str(path): data for path, data in files_below(home, Path("/dev/shm")).items()}
    places["the names of files"] = names_below(home, Path("/dev/shm"))
    places |= {f"what was seen, {i}": data for i, data in enumerate(seen)}
    assert len(set(secrets)) == len(secrets) >= 4 and len(places) > len(seen) > 5
    for place, data in places.items():
        if any(form in data for secret in secrets for form in forms(secret)):
            assert place.endswith(".json"), place
            assert stat.S_IMODE(os.stat(place).st_mode) == 0o600, place


def secrets_of_daemons(count: int) -> list[str]:
    """Return the secrets that daemons have for themselves."""
    found = [pair for pairs in everywhere(own_pairs).collect() for pair in pairs.values()]
    assert len(found) == 2 * count
    return [secret for _, secret in found]


def test_no_key_is_to_be_seen_of_a_pool(
    home: Path, mark: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with daemons(2, "tcp://127.0.0.1:0", output="output.txt") as pool:
        pool.connection_file("pool.json")
        pool.wait(2, timeout=20)
        keys = pool._keys
        assert keys is not None
        secrets = [pair.secret for pair in (keys.server, keys.client, *keys.guests.values())]
        secrets += secrets_of_daemons(2)
        seen = mirai(look_around).result()
        with pytest.raises(DaemonCrashed) as crash:
            mirai(os.abort).result()
        said = [repr(crash.value).encode(), str(pool.status()).encode(), repr(pool).encode()]
        said += [text.encode() for text in capfd.readouterr()]
        pids = [int(each.split()[0]) for each in processes_marked(mark)] + [os.getpid()]
        check_nowhere(secrets, home, pids, seen + said)
        assert (home / "pool.json").exists()
    left = files_below(home)
    assert not [path for path in left if path.suffix == ".json"]
    said = [*left.values(), names_below(home)]
    assert not [d for d in said for s in secrets for form in forms(s) if form in d]


@pytest.mark.usefixtures("sent_by_value")
def test_no_key_is_to_be_seen_of_a_pool_that_stands_on_its_own(
    home: Path, mark: str, command: Command
) -> None:
    address = "tcp://127.0.0.1:5555"  # that of the first, with which nothing is done
    drawn = command("keys", address, "--directory", home)
    assert drawn.communicate(timeout=30)[1] == ""
    arguments = ["--keys", "server.json", "--url", "tcp://127.0.0.1:0", "-n", 1]
    running = command("dispatcher", *arguments, "--connection-file", "pool.json")
    assert running.stdout is not None
    said = [running.stdout.readline().encode()]
    Connection.read("pool.json").only(Role.DAEMON).write("only.json")
    joined = command("daemon", "pool.json")
    with connect("pool.json") as pool:
        pool.wait(2, timeout=20)
        keys = Connection.read("server.json")
        secrets = [keys.server_secret, *(pair.secret for pair in keys.keys.values())]
        local = [daemon for daemon in pool.status().daemons if _is_child(daemon.pid, running.pid)]
        assert len(local) == 1
        secrets = list({*secrets, *secrets_of_daemons(2)})
        assert len(secrets) == 5  # those of the supervisor's are in the file
        seen = [each for found in everywhere(look_around).collect() for each in found]
        pids = [int(each.split()[0]) for each in processes_marked(mark)]
        assert len(pids) == 4
        seen += [str(pool.status()).encode(), repr(pool).encode(), repr(keys).encode()]
        check_nowhere(secrets, home, pids, seen + said)
    for process in (running, joined):
        process.terminate()
        said += [text.encode() for text in process.communicate(timeout=30)]
    assert not [d for d in said for s in secrets for form in forms(s) if form in d]
    assert not (home / "pool.json").exists()


def _is_child(pid: int, parent: int) -> bool:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent


# ── who can reach it ─────────────────────────────────────────────────────────────────────


def config(url: str) -> server.Config:
    pair = KeyPair.new()
    return server.Config(url, pair.public, pair.secret, KeyPair.new().public, Plan(0, [], "", {}))


LOOK = """
import os, socket, sys
if user := int(sys.argv[3]):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
with socket.socket(socket.AF_UNIX) as it:
    it.settimeout(20)
    it.connect("\\0" + sys.argv[1] if sys.argv[2] else sys.argv[1])
    print("greeted" if it.recv(64) else "left alone")
"""


def greeted(name: str, *, abstract: bool, user: int = 0) -> str:
    """Connect as a user; return what the other side does, or the error."""
    argv = [sys.executable, "-c", LOOK, name, "yes" * abstract, str(user)]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True)
    return (done.stdout or done.stderr.splitlines()[-1]).strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.skipif(sys.platform != "linux", reason="the abstract name space is Linux's")
def test_another_user_gets_no_answer_from_a_local_pool() -> None:
    """The name is there for all to see, and CURVE would be in the way as well."""
    with daemons(1) as pool:
        name = pool.url.removeprefix("ipc://@")
        assert greeted(name, abstract=True) == "greeted"
        assert greeted(name, abstract=True, user=NOBODY) == "left alone"
        assert mirai(abs, -1).result() == 1


def test_where_the_name_space_has_no_owner_the_directory_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    former = os.umask(0)
    try:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("dispatcher.router.sys.platform", "another")
            it = server.Server(config("ipc"))
    finally:
        os.umask(former)
    try:
        path = Path(it.url.removeprefix("ipc://"))
        assert path.is_socket()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.parent.stat().st_uid == os.geteuid()
        assert greeted(str(path), abstract=False) == "greeted"
        if os.geteuid() == 0:
            assert "PermissionError" in greeted(str(path), abstract=False, user=NOBODY)
    finally:
        it.close()
    assert not path.parent.exists()


URLS = [
    "ipc",
    "ipc://@mirai-test-security",
    "ipc://{tmp}/socket",
    "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:*",
    "tcp://0.0.0.0:0",
    "tcp://*:0",
    "tcp://localhost:0",
    "tcp://lo:0",
    "tcp://[::1]:0",
    "inproc://mirai",
    "udp://127.0.0.1:0",
    "ws://127.0.0.1:0",
    "pgm://127.0.0.1;239.192.1.1:3055",
    "nonsense",
    "",
]


@pytest.mark.parametrize("url", URLS)
def test_whatever_listens_has_curve_on(url: str, tmp_path: Path) -> None:
    """A server listens with CURVE and an enforced domain, or not at all."""
    try:
        it = server.Server(config(url.format(tmp=tmp_path)))
    except (zmq.ZMQError, OSError):
        assert not url.startswith(("ipc", "tcp://127"))  # the others, not on every machine
        return
    try:
        assert it._router._router.getsockopt(zmq.CURVE_SERVER) == 1
        assert it._router._router.getsockopt(zmq.MECHANISM) == zmq.CURVE
        assert it._router._router.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
        assert it._router._router.getsockopt(zmq.ZAP_DOMAIN) in (b"mirai", b"mirai\0")
    finally:
        it.close()


def test_who_proves_no_key_is_not_heard() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    plain = {"plain_username": b"user", "plain_password": b"password"}
    with daemons(1, "tcp://127.0.0.1:0") as pool:
        assert _is_turned_away(context, pool.url, {})
        assert _is_turned_away(context, pool.url, plain)
        assert mirai(abs, -1).result() == 1
    context.destroy(linger=0)


def _is_turned_away(
    context: zmq.Context[zmq.Socket[bytes]], url: str, options: dict[str, bytes]
) -> bool:
    failed = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_DISCONNECTED
    with context.socket(zmq.DEALER) as bare, bare.get_monitor_socket() as monitor:
        for name, value in options.items():
            setattr(bare, name, value)
        bare.connect(url)
        seen = 0
        while not seen & (failed | zmq.EVENT_HANDSHAKE_SUCCEEDED):
            assert monitor.poll(15_000)
            seen = int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder)
        bare.disable_monitor()
    return bool(seen & failed)


# ── on the way ───────────────────────────────────────────────────────────────────────────


class Wire:
    """A man in the middle, who records what a client says, and passes it on."""

    def __init__(self, port: int) -> None:
        self.recorded = bytearray()
        self.answered = bytearray()
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        far = socket.create_connection(("127.0.0.1", self._port))
        with self._listener, far, self._listener.accept()[0] as near:
            back = threading.Thread(target=self._pass_on, args=(far, near, self.answered))
            back.start()
            self._pass_on(near, far, self.recorded)
            back.join()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                record += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        self._thread.join()


def test_who_is_in_the_middle_reads_nothing_and_cannot_say_it_again(tmp_path: Path) -> None:
    told = tmp_path / "told"
    password = "correct horse battery staple"

    def tell(text: str, path: str = str(told)) -> str:
        with open(path, "a") as file:
            file.write(f"{text}\n")
        return text[::-1]

    with daemons(1, "tcp://127.0.0.1:0") as pool:
        port = int(pool.url.rpartition(":")[2])
        wire = Wire(port)
        pool.connection_file(tmp_path / "pool.json")
        there = Connection.read(tmp_path / "pool.json")
        there.at(f"tcp://127.0.0.1:{wire.port}").write(tmp_path / "wire.json")
        with connect(tmp_path / "wire.json", "guest") as guest:
            assert guest.submit(tell, (password,)).result(timeout=20) == password[::-1]
        wire.join()
        assert len(wire.recorded) > 1_000 and len(wire.answered) > 300
        for text in (password.encode(), password[::-1].encode(), b"tell", *forms_of(there)):
            assert text not in wire.recorded and text not in wire.answered
        with socket.create_connection(("127.0.0.1", port)) as again:
            again.sendall(wire.recorded)
            with contextlib.suppress(ConnectionResetError):
                while again.recv(65_536):  # until the dispatcher ends it
                    pass
        assert mirai(abs, -1).result() == 1
        assert told.read_text() == f"{password}\n"
        assert pool.status().completed == 2


def forms_of(connection: Connection) -> list[bytes]:
    return [form for pair in connection.keys.values() for form in forms(pair.secret)]
