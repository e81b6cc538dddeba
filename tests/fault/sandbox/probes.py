"""What hostile code tries, as a table: the attempt, and the outcome that is wanted of it.

Each attempt leaves in `seen` what it got; `tried(...)` gives "done: ..." or "refused: ErrorName". The
names in capitals are put in front by `inside.py`, which also looks after each of them whether anything
outside was touched. Nothing of this may run outside private namespaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

REFUSED: Final = r"refused: \w+"


@dataclass(frozen=True)
class Probe:
    """An attempt. `seen` is a pattern for what it got; `ended` how the program may have ended;
    `kept` the names of the files that are kept. `control`: what it gets without a sandbox.
    `filtered`: the pattern where there are system calls to filter. A senseless call fails anyway;
    that it is the filter that refuses is told by the error."""

    name: str
    code: str
    seen: str = REFUSED
    ended: tuple[str, ...] = ("exit",)
    kept: tuple[str, ...] = ()
    skipped: int | None = None
    failure: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    control: str = ""
    only: tuple[str, ...] = ()
    filtered: str = ""


PRELUDE: Final = """
import os, sys
def tried(what, *more):
    try:
        result = what(*more)
    except BaseException as error:
        return "refused: " + type(error).__name__
    return ("done: " + repr(result))[:300]
def call(number, *arguments):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(number, *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result
def reach(family, kind, address):
    import socket
    with socket.socket(getattr(socket, family), getattr(socket, kind)) as each:
        each.settimeout(2)
        each.connect(address)
        each.send(b"reached")
    return "reached"
def write(path, mode="w"):
    with open(path, mode) as file:
        return file.write("changed")
def read(path):
    with open(path, "rb") as file:
        return file.read(200)
seen = "nothing"
"""

_NAMES: Final = "seen = tried(call, NUMBERS[{0!r}], {1})"


def _syscall(name: str, arguments: str = "0, 0, 0, 0, 0") -> Probe:
    return Probe(
        f"call {name}", _NAMES.format(name, arguments), filtered="refused: PermissionError"
    )


_FILES: Final = (
    Probe("read a file of the host", "seen = tried(read, CANARY)", control=r"done: b'\w+.*'"),
    Probe("list a folder of the host", "seen = tried(os.listdir, FOLDER)", control=r"done: \[.*"),
    Probe("read /etc/shadow", "seen = tried(read, '/etc/shadow')"),
    Probe("read /etc/passwd", "seen = tried(read, '/etc/passwd')"),
    Probe("read through ..", "seen = tried(read, '../' * 12 + CANARY)"),
    Probe(
        "read through a link",
        "seen = tried(lambda: (os.symlink(CANARY, 'link'), read('link')))",
        control=r"done: .*",
    ),
    Probe("read through /proc/self/root", "seen = tried(read, '/proc/self/root' + CANARY)"),
    Probe("read through /proc/self/cwd", "seen = tried(read, '/proc/1/cwd/' + '../' * 12 + CANARY)"),
    Probe("hard link to a file of the host", "seen = tried(os.link, CANARY, 'hard')"),
    Probe("link as a picture", "tried(os.symlink, CANARY, 'picture.png')", r"nothing"),
    Probe("link as a folder", "tried(os.symlink, FOLDER, 'folder')", r"nothing"),
    Probe("write beside", "seen = tried(write, FOLDER + '/beside')", control=r"done: 7"),
    Probe("append to a file of the host", "seen = tried(write, CANARY, 'a')"),
    Probe("remove a file of the host", "seen = tried(os.unlink, CANARY)"),
    Probe("make a file of the host executable", "seen = tried(os.chmod, CANARY, 0o777)",
          r"refused: \w+|done: None"),
    Probe("write to /etc", "seen = tried(write, '/etc/flowkit')"),
    Probe("write to /usr", "seen = tried(write, '/usr/flowkit')"),
    Probe("write to /", "seen = tried(write, '/flowkit')"),
    Probe("change the interpreter's library", "seen = tried(write, os.__file__, 'a')"),
    Probe("change the interpreter", "seen = tried(write, sys.executable, 'a')"),
    Probe("overwrite /proc/self/exe", "seen = tried(write, '/proc/self/exe', 'a')"),
    Probe("change the guest program", "seen = tried(write, '/run/sandbox/guest.py', 'a')"),
    Probe("move the work directory", "seen = tried(os.rename, os.getcwd(), '/moved')"),
    Probe("make a device", "seen = tried(os.mknod, 'disk', 0o60666, os.makedev(254, 0))"),
    Probe("read the memory device", "seen = tried(read, '/dev/mem')"),
    Probe("read the kernel's log", "seen = tried(read, '/dev/kmsg')"),
    Probe("read a disk", "seen = [tried(read, f'/dev/{each}') for each in ('vda', 'sda', 'nvme0n1')]",
          r"\[('refused: \w+'(, )?)+\]"),
    Probe("look at processes", "seen = [each for each in (os.listdir('/proc') if os.path.exists('/proc')"
          " else []) if each.isdigit()]", r"\[\]", control=r"\['.*"),
    Probe("set a kernel variable", "seen = tried(write, '/proc/sys/kernel/core_pattern', 'r+')"),
    Probe("look at /sys", "seen = tried(os.listdir, '/sys')"),
    Probe("reach cgroups", "seen = tried(os.listdir, '/sys/fs/cgroup')"),
)  # fmt: skip

_PROCESSES: Final = (
    Probe("read the environment", "seen = sorted(each for each in os.environ if 'CANARY' in each)",
          r"\[\]", control=r"\['FLOWKIT_CANARY'\]"),
    Probe("read the parent's environment", "seen = tried(read, f'/proc/{VICTIM}/environ')",
          control=r"done: b'.*"),
    Probe("read the parent's memory", "seen = tried(read, f'/proc/{VICTIM}/mem')"),
    Probe("see the parent's descriptors", "seen = tried(os.listdir, f'/proc/{VICTIM}/fd')"),
    Probe("inherit a descriptor", """
found = []
for number in range(3, 1024):
    try:
        os.fstat(number)
    except OSError:
        continue
    found.append(number)
seen = len(found)
""", r"[01]", only=("rlimits",)),
    Probe("trace the parent", "seen = tried(call, NUMBERS['ptrace'], 16, VICTIM, 0, 0)"),
    Probe("trace the keeper", "seen = tried(call, NUMBERS['ptrace'], 16, os.getppid(), 0, 0)"),
    _syscall("process_vm_readv", "VICTIM, 0, 0, 0, 0, 0"),
    _syscall("process_vm_writev", "os.getppid(), 0, 0, 0, 0, 0"),
    _syscall("kcmp", "VICTIM, os.getpid(), 0, 0, 0"),
    _syscall("pidfd_open", "os.getppid(), 0"),
    _syscall("pidfd_getfd", "0, 0, 0"),
    Probe("kill the parent", "seen = tried(os.kill, VICTIM, 9)"),
    Probe("kill the keeper", "os.kill(os.getppid(), 9)\nimport time\ntime.sleep(5)",
          r".*", ("lost", "exit")),
    Probe("kill all", "os.kill(-1, 9)\nimport time\ntime.sleep(5)", r".*", ("lost", "exit")),
    Probe("stop the keeper", "os.kill(os.getppid(), 19)\nimport time\ntime.sleep(60)",
          r".*", ("time", "exit"), limits={"time_s": 0.5}),
    Probe("kill init", "tried(os.kill, 1, 9)\nseen = 'alive'", r"alive"),
    Probe("kill the parent's group", "tried(os.killpg, VICTIM, 9)\nseen = 'alive'", r"alive"),
    Probe("become root", "seen = [tried(os.setuid, 0), tried(os.seteuid, 0), tried(os.setgid, 0)]",
          r"\['refused: \w+', 'refused: \w+', 'refused: \w+'\]"),
    Probe("join groups", "seen = tried(os.setgroups, [0])"),
    Probe("gain rights by a program", """
import ctypes
seen = ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)
""", r"1|nothing", ("exit",), failure=r"|ModuleNotFoundError|ImportError|OSError"),
    Probe("have capabilities", """
import ctypes, struct
data = ctypes.create_string_buffer(24)
ctypes.CDLL(None).capget(struct.pack("=II", 0x20080522, 0), data)
seen = any(struct.unpack("=IIIIII", data.raw)[at] for at in (0, 1, 3, 4))
""", r"False|nothing", ("exit",), failure=r"|ModuleNotFoundError|ImportError|OSError"),
    Probe("run a daemon", """
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            import time
            time.sleep(300)
except AttributeError:
    pass
seen = "left"
""", r"left.*"),
    Probe("write files from a daemon", """
try:
    if os.fork() == 0:
        os.setsid()
        while True:
            with open(".late", "a") as file:
                file.write("x")
            os.unlink(".late")
except AttributeError:
    pass
seen = "left"
""", r"left", limits={"artifacts": 1}),
    Probe("nest namespaces by a program", """
import subprocess
seen = tried(lambda: subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode)
""", r"refused: \w+|done: [1-9]\d*"),
    Probe("run bwrap inside", """
import subprocess
seen = tried(lambda: subprocess.run(["bwrap", "--ro-bind", "/", "/", "true"]).returncode)
""", r"refused: \w+|done: [1-9]\d*"),
    Probe("raise a limit", """
def more():
    import resource
    resource.setrlimit(resource.RLIMIT_NPROC, (1 << 20, 1 << 20))
seen = tried(more)
"""),
    Probe("be nice to oneself", "seen = tried(os.nice, -10)"),
    Probe("run in real time",
          "seen = tried(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))"),
    Probe("read stdin", "seen = tried(sys.stdin.read)", r"done: ''"),
    Probe("dump core", "os.abort()", r".*", ("signal",)),
    Probe("preload a library into a program", """
import subprocess
with open("evil.so", "wb") as file:
    file.write(b"no library")
seen = tried(lambda: subprocess.run(["/bin/true"], env={"LD_PRELOAD": "./evil.so"},
    capture_output=True).returncode)
""", r"done: 0|refused: \w+", kept=("evil.so",)),
)  # fmt: skip

_KERNEL: Final = (
    *(
        _syscall(name)
        for name in ["add_key", "bpf", "chroot", "clock_settime", "fanotify_init", "fsopen", "init_module", "inotify_init1", "io_setup", "io_uring_setup", "kexec_load", "keyctl", "memfd_create", "mount", "mq_open", "name_to_handle_at", "open_by_handle_at", "open_tree", "perf_event_open", "personality", "pivot_root", "quotactl", "reboot", "request_key", "semget", "sethostname", "setns", "settimeofday", "shmget", "swapon", "syslog", "umount2", "unshare", "userfaultfd", "adjtimex", "acct", "move_pages"]
    ),
    Probe("a namespace by clone", "seen = tried(call, CLONE, 0x10000000 | 17, 0, 0, 0, 0)"),
    Probe("a namespace by clone3", "seen = tried(call, 435, bytes(88), 88)"),
    Probe("a call that is newer than the filter", "seen = tried(call, 470, 0, 0, 0, 0)"),
    Probe("type into the terminal", """
def type_in():
    import fcntl
    return [fcntl.ioctl(number, 0x5412, b"x") for number in (0, 1, 2)]
seen = tried(type_in)
"""),
    Probe("lock memory", "seen = tried(call, MLOCKALL, 3)"),
)  # fmt: skip

_NETWORK: Final = (
    Probe("connect to loopback", "seen = tried(reach, 'AF_INET', 'SOCK_STREAM', ('127.0.0.1', PORT))",
          control=r"done: 'reached'"),
    Probe("connect to metadata",
          "seen = tried(reach, 'AF_INET', 'SOCK_STREAM', ('169.254.169.254', PORT))",
          control=r"done: 'reached'"),
    Probe("connect out", "seen = tried(reach, 'AF_INET', 'SOCK_STREAM', ('192.0.2.1', 80))"),
    Probe("connect out by IPv6", "seen = tried(reach, 'AF_INET6', 'SOCK_STREAM', ('::1', PORT))"),
    Probe("send a datagram", "seen = tried(reach, 'AF_INET', 'SOCK_DGRAM', ('127.0.0.1', PORT))"),
    Probe("ask for a name", """
def ask():
    import socket
    return socket.getaddrinfo("example.org", 80)
seen = tried(ask)
"""),
    Probe("open a raw socket", "seen = tried(reach, 'AF_INET', 'SOCK_RAW', ('127.0.0.1', 1))"),
    Probe("open a packet socket", "seen = tried(reach, 'AF_PACKET', 'SOCK_RAW', ('lo', 0))"),
    Probe("open a netlink socket", "seen = tried(reach, 'AF_NETLINK', 'SOCK_RAW', (0, 0))"),
    Probe("open a vsock", "seen = tried(reach, 'AF_VSOCK', 'SOCK_STREAM', (2, 1))"),
    Probe("connect to a socket by path", "seen = tried(reach, 'AF_UNIX', 'SOCK_STREAM', UNIX)",
          control=r"done: 'reached'"),
    Probe("connect to an abstract socket",
          "seen = tried(reach, 'AF_UNIX', 'SOCK_STREAM', chr(0) + ABSTRACT)",
          control=r"done: 'reached'"),
    Probe("listen", """
def listen():
    import socket
    return socket.create_server(("127.0.0.1", 0))
seen = tried(listen)
"""),
    Probe("fetch", """
def fetch():
    import urllib.request
    return urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=2).read()
seen = tried(fetch)
"""),
)  # fmt: skip

_AMOUNTS: Final = (
    Probe("fork bomb", """
made = 0
try:
    while made < 2000:
        if os.fork() == 0:
            import time
            time.sleep(60)
        made += 1
except (OSError, AttributeError):
    pass
seen = made < 70
""", r"True"),
    Probe("fork bomb that doubles", """
import time
for _ in range(12):
    try:
        os.fork()
    except (OSError, AttributeError):
        pass
time.sleep(2)
""", r".*", ("exit", "time", "lost"), limits={"time_s": 3}),
    Probe("bomb of threads", """
import threading, time
made = 0
try:
    while made < 2000:
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        made += 1
except (RuntimeError, MemoryError):
    pass
seen = made < 70
""", r"True"),
    Probe("10 GB of memory", "seen = tried(lambda: len(bytearray(10 << 30)))", r"refused: \w+"),
    Probe("memory bit by bit", """
held = []
def fill():
    while True:
        held.append(bytearray(16 << 20))
seen = tried(fill)
held.clear()
""", r"refused: MemoryError", limits={"memory_bytes": 512 << 20}),
    Probe("memory by many processes", """
import select, time
read_end, write_end = os.pipe()
for _ in range(8):
    if os.fork() == 0:
        held = bytearray(200 << 20)
        held[::4096] = b"x" * len(held[::4096])
        os.write(write_end, b"x")
        time.sleep(60)
        os._exit(0)
filled = dead = 0
while filled + dead < 8:
    if select.select([read_end], [], [], 0.1)[0]:
        filled += len(os.read(read_end, 8))
    elif os.waitpid(-1, os.WNOHANG)[0]:
        dead += 1
seen = filled
""", r"[0-3]|nothing", ("exit", "signal", "lost", "time"), only=("cgroup",),
          limits={"memory_bytes": 400 << 20, "disk_bytes": 64 << 20, "time_s": 20}),
    Probe("bomb to decompress", """
import zlib
def blow():
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(16 << 20)) for _ in range(32)) + packer.flush()
    return len(zlib.decompress(data))
seen = tried(blow)
""", r"refused: \w+", limits={"memory_bytes": 512 << 20}),
    Probe("endless loop that ignores signals", """
import signal
for number in range(1, 65):
    tried(signal.signal, number, signal.SIG_IGN)
while True:
    pass
""", r".*", ("time",), limits={"time_s": 0.5}),
    Probe("too much processor time", "while True:\n    pass", r".*", ("signal",),
          limits={"time_s": 20, "cpu_s": 1}, only=("rlimits",)),
    Probe("sleep", "import time\ntime.sleep(600)", r".*", ("time",), limits={"time_s": 0.5}),
    Probe("a loop inside C", "sum(range(10 ** 12))", r".*", ("time",), limits={"time_s": 0.5}),
    Probe("an expression that never ends", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')", r".*",
          ("time",), limits={"time_s": 0.5}),
    Probe("1 GB of output", """
piece = "x" * (1 << 20)
for _ in range(1024):
    print(piece)
""", r".*", ("output", "exit")),
    Probe("1 GB of errors", """
piece = b"x" * (1 << 20)
for _ in range(1024):
    os.write(2, piece)
""", r".*", ("output", "exit")),
    Probe("a huge file", """
def fill():
    with open("huge", "wb") as file:
        while True:
            file.write(bytes(8 << 20))
seen = tried(fill)
os.truncate("huge", 10)
""", r"refused: OSError", kept=("huge",), only=("rlimits",)),
    Probe("fill the disk", """
def fill():
    for number in range(200):
        with open(f".{number}", "wb") as file:
            file.write(bytes(8 << 20))
seen = tried(fill)
""", r"refused: OSError|nothing", ("exit", "files")),
    Probe("fill the temporary disk", """
def fill():
    for number in range(200):
        with open(f"{os.environ['TMPDIR']}/{number}", "wb") as file:
            file.write(bytes(8 << 20))
seen = tried(fill)
""", r"refused: OSError|nothing", ("exit", "files")),
    Probe("a sparse file", """
def stretch():
    with open("sparse", "wb") as file:
        file.truncate(1 << 40)
seen = tried(stretch)
if seen.startswith("refused"):
    os.unlink("sparse")
""", r"refused: \w+|nothing", ("exit", "files"), only=("rlimits",)),
    Probe("many files", """
def litter():
    for number in range(1_000_000):
        open(f".{number}", "w").close()
seen = tried(litter)
""", r"refused: OSError|nothing", ("exit", "files")),
    Probe("deep folders", """
def dig():
    for number in range(3000):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
tried(dig)
tried(write, "bottom.txt")
seen = "dug"
""", r"dug"),
    Probe("many descriptors", """
held = []
def hold():
    while True:
        held.append(open("/dev/null" if os.path.exists("/dev/null") else "x", "w"))
seen = tried(hold)
for each in held:
    each.close()
tried(os.unlink, "x")
"""),
    Probe("deep recursion", "def f(n):\n    return f(n + 1)\nf(0)", r".*", failure="RecursionError"),
    Probe("a stack that overflows", """
sys.setrecursionlimit(10 ** 9)
class Deep:
    def __repr__(self):
        return repr(self)
def f(n):
    return [f(n + 1) for _ in (0,)]
f(0)
""", r".*", ("exit", "signal", "time"), failure=r"|MemoryError|RecursionError", limits={"time_s": 2}),
    Probe("a huge number", "print(10 ** 5000)", r".*", failure="ValueError"),
    Probe("a number that is never done", "10 ** (10 ** 10)", r".*", ("time", "exit"),
          limits={"time_s": 0.5}, failure=r"|MemoryError|OverflowError"),
)  # fmt: skip

_FORGED: Final = '{"ended": "exit", "code": 0, "said": "", "files": [["forged", 3]], "skipped": []}'

_RESULTS: Final = (
    Probe("forge the result", f"""
for number in range(3, 1024):
    for text in (b"ready\\n", b'{_FORGED}\\nabc', b"\\xff" * 10):
        try:
            os.write(number, text)
        except OSError:
            break
seen = "forged"
""", r"forged"),
    Probe("forge the result and leave", f"""
for number in range(1, 1024):
    try:
        os.write(number, b'ready\\n{_FORGED}\\nabc')
    except OSError:
        pass
os._exit(0)
""", r".*"),
    Probe("close everything", "os.closerange(0, 1024)", r".*", failure=r"|OSError|ValueError"),
    Probe("close stdout", "sys.stdout.close()\nos.close(2)", r".*", failure=r"|ValueError|OSError"),
    Probe("break the reporter", """
import builtins
os.write = os._exit = None
builtins.len = builtins.repr = builtins.str = None
""", r".*", ("exit", "lost"), failure=r".*"),
    Probe("a message of 50 MB", "raise ValueError('x' * 50_000_000)", r".*", failure="ValueError"),
    Probe("an error that has no text", """
class Bad(Exception):
    def __str__(self):
        raise KeyboardInterrupt
raise Bad
""", r".*", failure="Bad"),
    Probe("a value that has no text", """
class Bad:
    def __repr__(self):
        raise SystemExit(3)
Bad()
""", r".*", failure=r"SystemExit"),
    Probe("a chain of 500 errors", """
def deep(n):
    try:
        if n:
            deep(n - 1)
        raise ValueError(n)
    except ValueError as error:
        raise RuntimeError("x" * 100) from error
deep(200)
""", r".*", failure="RuntimeError"),
    Probe("binary output", "os.write(1, bytes(range(256)))\nseen = 'written'", r"written"),
    Probe("lone surrogates", "print(chr(0xD800))\nseen = ascii(chr(0xDFFF))", r"'\\udfff'"),
    Probe("an error of surrogates", "raise ValueError(chr(0xD800) * 5)", r".*", failure="ValueError"),
    Probe("leave with a code", "os._exit(7)", r".*"),
    Probe("leave with a text", "sys.exit('no more')", r".*", failure="SystemExit"),
    Probe("crash", """
import ctypes
ctypes.string_at(0)
""", r".*", ("signal", "exit"), failure=r"|ModuleNotFoundError|ImportError|OSError"),
    Probe("end oneself", "os.kill(os.getpid(), 15)", r".*", ("signal", "exit"),
          failure=r"|AttributeError|OSError"),
    Probe("shadow a module", """
with open("json.py", "w") as file:
    file.write("FAKE = True")
import json
seen = hasattr(json, "FAKE")
""", r"False", kept=("json.py",)),
    Probe("a pickle that runs", """
import pickle
class Bad:
    def __reduce__(self):
        return (os.system, ("touch " + FOLDER + "/pickled",))
with open("data.pkl", "wb") as file:
    pickle.dump(Bad(), file)
seen = "pickled"
""", r"pickled", kept=("data.pkl",)),
    Probe("a page that runs", """
with open("page.html", "w") as file:
    file.write("<script>alert(1)</script>")
seen = "made"
""", r"made", kept=("page.html",)),
    Probe("names that leave", r"""
for name in ("a\\..\\slip.txt", "C:x.txt", "a\nb.txt", "a\u202eb.txt", "\x1b[2J.txt", "x" * 220):
    tried(write, name)
seen = tried(write, "../slip.txt")
""", skipped=6),
    Probe("a name with NUL", "seen = tried(write, 'a' + chr(0) + 'b')"),
    Probe("a name that is too long", "seen = tried(write, 'x' * 300)"),
    Probe("a name that is no text", "tried(write, b'\\xff\\xfe.txt')\nseen = 'made'", r"made", skipped=None,
          kept=("\ufffd\ufffd.txt",), only=("rlimits",)),
    Probe("a pipe as a file", "tried(os.mkfifo, 'pipe.png')\nseen = 'made'", r"made"),
    Probe("too many files to keep", """
for number in range(30):
    write(f"{number:02}.txt")
seen = "made"
""", r"made", kept=tuple(f"{number:02}.txt" for number in range(5)), skipped=25,
          limits={"artifacts": 5}),
    Probe("more than may be kept", """
with open("big.csv", "wb") as file:
    file.write(bytes(2 << 20))
seen = "made"
""", r"made", skipped=1, limits={"artifact_bytes": 1 << 20}),
    Probe("become another program", "os.execv('/bin/echo', ['echo', 'SEEN', 'other'])",
          r"other|nothing", failure=r"|AttributeError|OSError"),
)  # fmt: skip

PROBES: Final = (*_FILES, *_PROCESSES, *_KERNEL, *_NETWORK, *_AMOUNTS, *_RESULTS)

SMOKE: Final = (
    "read a file of the host",
    "write beside",
    "read the environment",
    "trace the parent",
    "call io_uring_setup",
    "connect to loopback",
    "connect to a socket by path",
    "run a daemon",
    "fork bomb",
    "names that leave",
    "forge the result",
)
