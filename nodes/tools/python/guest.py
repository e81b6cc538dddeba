"""The program inside the sandbox: a keeper, and its child, which runs the code.

The keeper never runs foreign code. It reads the job, writes the input files, waits, ends whatever is
left, and sends back what was found; so no file of the code's is ever opened outside the sandbox. It
stands alone: the interpreter it runs under may be another one, without flowkit.

Arguments: the descriptor to answer on. Job, on stdin: a line with a literal of Python, then the bytes
of the files. Answer: "ready", a line of JSON, then the bytes of the files.

Its imports are a part of what each call costs: `json`, `signal` and `typing` would double it.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIGKILL = 9
# Some of them are not there on Windows; they are single bits.
OPEN_FLAGS = sum(
    getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_BINARY")
)

REPORT_BYTES_MAX = 1 << 20
LOOK_S = 0.05
FRAMES_MAX = 6


def main() -> int:
    """Begin, after a look at where this is: `kill(-1)` below must never be meant for a host."""
    if sys.argv[1] == "alone":
        return alone(*sys.argv[2:])
    if os.getpid() > 3:
        sys.stderr.write("the guest program was not started as a sandbox starts it\n")
        return 70
    channel = int(sys.argv[1])
    with open(0, "rb", closefd=False) as job:
        order: dict[str, Any] = eval(job.readline(), {"__builtins__": {}})  # the host's own
        if order["uid"]:
            os.setgroups([])
            os.setresgid(order["uid"], order["uid"], order["uid"])
            os.setresuid(order["uid"], order["uid"], order["uid"])
        os.umask(0o077)
        with open(os.path.join(os.environ["TMPDIR"], "matplotlibrc"), "w") as settings:
            settings.write(order["matplotlibrc"])
        given = write_files(job, order["files"])
    with open(channel, "wb") as answer:
        answer.write(b"ready\n")
        answer.flush()
        head, files = keep(order, given, channel)
        answer.write(as_json(head).encode() + b"\n")
        answer.writelines(data for _, data in files)
    return 0


def alone(order_file: str, report_file: str) -> int:
    """Run the code here, where there are no processes: in WebAssembly, which confines by itself."""
    with open(order_file, "rb") as file:
        order: dict[str, Any] = eval(file.readline(), {"__builtins__": {}})
    run(order, os.open(report_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    return 0


def write_files(job: Any, files: list[tuple[str, int]]) -> dict[str, tuple[int, int]]:
    """Write what came with the job; gives their time and size, to see later what was changed."""
    given: dict[str, tuple[int, int]] = {}
    for name, size in files:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as file:
            file.write(job.read(size))
        found = os.stat(name)
        given[name] = (found.st_mtime_ns, found.st_size)
    return given


def keep(
    order: dict[str, Any], given: dict[str, tuple[int, int]], channel: int
) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """Run the code in a child, and find out what came of it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.close(channel)
        run(order, write)
    os.close(write)
    ended, status, said = wait_for(child, read, order["time_s"], order["entries"])
    end_the_others()
    if ended:
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    head: dict[str, Any] = {
        "ended": ended or ("signal" if code < 0 else "exit"),
        "code": abs(code),
        "said": said.decode("utf-8", "replace"),
    }
    files, head["skipped"] = collect(order, given)
    head["files"] = [(name, len(data)) for name, data in files]
    return head, files


def wait_for(child: int, read: int, time_s: float, entries: int) -> tuple[str, int, bytes]:
    """Wait for the child's end; else for the limit that it goes beyond: "time" or "files"."""
    until = time.monotonic() + time_s
    said = bytearray()
    sources = [read]
    pause, look = LOOK_S, time.monotonic() + LOOK_S
    while (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select(sources, [], [], min(pause, left))
        if ready:
            piece = os.read(read, 65536)
            said += piece
            del said[REPORT_BYTES_MAX:]
            if piece:  # who floods it must not keep us from looking
                if time.monotonic() < look:
                    continue
                look = time.monotonic() + LOOK_S
                if used_entries() > entries:
                    return "files", 0, bytes(said)
                continue
            sources, pause = [], LOOK_S / 64  # closed: it has ended, or will, or plays tricks
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "", status, bytes(said)
        pause = min(pause * 2, LOOK_S)
        if used_entries() > entries:
            return "files", 0, bytes(said)
    return "time", 0, bytes(said)


def end_the_others() -> None:
    """End all that is left but init and this process: a daemon ends with the code that began it."""
    try:
        os.kill(-1, SIGKILL)
    except ProcessLookupError:
        pass  # nobody is left


def used_entries() -> int:
    used = 0
    for place in (".", os.environ["TMPDIR"]):
        found = os.statvfs(place)
        used += found.f_files - found.f_ffree
    return used


def collect(
    order: dict[str, Any], given: dict[str, tuple[int, int]], top: str = "."
) -> tuple[list[tuple[str, bytes]], list[tuple[str, str]]]:
    """The regular files that the code wrote or changed, by path, as far as they may be kept."""
    files: list[tuple[str, bytes]] = []
    skipped: list[tuple[str, str]] = []
    room: int = order["artifact_bytes"]
    for path in walk(top, order["entries"]):
        name = path[len(top) + 1 :]
        try:
            handle = os.open(path, OPEN_FLAGS)
        except OSError:
            continue
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                continue
            if given.get(name) == (found.st_mtime_ns, found.st_size):
                continue
            shown = name.encode("utf-8", "replace").decode()[:200]
            if len(files) >= order["artifacts"]:
                skipped.append((shown, f"only {order['artifacts']} files are kept"))
            elif found.st_size > room:
                skipped.append((shown, f"its {found.st_size:,} bytes are more than may be kept"))
            else:
                data = file.read(room)
                room -= len(data)
                files.append(
                    (name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), data)
                )
    return files, skipped[:50]


def walk(top: str, entries: int) -> list[str]:
    """Paths of what is no folder, without hidden ones, not following links, sorted."""
    found: list[str] = []
    folders = [top]
    seen = 0
    while folders and seen < entries:
        folder = folders.pop()
        try:
            with os.scandir(folder) as inside:
                for entry in inside:
                    seen += 1
                    if entry.name.startswith(".") or entry.name == "__pycache__":
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        found.append(entry.path)
        except OSError:
            continue
    return sorted(found)


def as_json(value: Any) -> str:
    """JSON of plain data: texts, whole numbers, lists, and dicts by text."""
    from _json import encode_basestring_ascii as quoted

    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int):
        return str(int(value))
    items: Any = value
    if isinstance(value, dict):
        return "{" + ",".join(f"{quoted(key)}:{as_json(items[key])}" for key in items) + "}"
    return "[" + ",".join(as_json(each) for each in items) + "]"


# ---- the child ----


def run(order: dict[str, Any], report: int) -> None:
    """Run the code in this process, tell what came of it, and end."""
    if "rlimits" in order:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        limit(order)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    status = 0
    said: dict[str, Any] = {}
    try:
        said["value"] = shown(evaluate(order["code"]), order["characters"])
        draw_open_figures()
    except SystemExit as error:
        status = exit_code(error)
        if status:
            said["failure"] = {"type": "SystemExit", "message": text_of(error)}
    except BaseException as error:  # noqa: BLE001 - whatever it raises is its result
        status = 1
        said["failure"] = failure(error, order["code"])
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (OSError, ValueError, AttributeError):
        pass
    try:
        os.write(report, as_json(said).encode()[:REPORT_BYTES_MAX])
    except (OSError, ValueError, RecursionError, MemoryError):
        pass
    os._exit(status)


def limit(order: dict[str, Any]) -> None:
    import resource

    for name, value in order["rlimits"].items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None:
            continue
        _, most = resource.getrlimit(number)
        least = value if most == resource.RLIM_INFINITY else min(value, most)
        # One more second of processor time between the signal that can be caught and the one that cannot.
        hard = least + 1 if name == "CPU" and least == value and most != least else least
        resource.setrlimit(number, (least, hard))


def evaluate(code: str) -> Any:
    """Run the code as a program; gives the value of its last line, if that is an expression."""
    import _ast

    program: Any = compile(code, NAME, "exec", _ast.PyCF_ONLY_AST)
    last = program.body.pop() if program.body and isinstance(program.body[-1], _ast.Expr) else None
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(program, NAME, "exec"), names)  # noqa: S102 - what this program is for
    if last is None:
        return None
    return eval(compile(_ast.Expression(last.value), NAME, "eval"), names)


NAME = "<code>"


def shown(value: Any, characters: int) -> str:
    """A value as JSON if it is plain, else its `repr`."""
    if value is None:
        return ""
    text = ""
    if type(value) in (bool, int, float, str, list, dict, tuple):
        import json

        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            text = ""
    return short(text or repr(value), characters)


def short(text: str, characters: int) -> str:
    """Without lone surrogates, and with both ends of what is too long."""
    clean = text.encode("utf-8", "replace").decode()
    if len(clean) <= characters:
        return clean
    half = characters // 2
    return (
        f"{clean[:half]}\n[... {len(clean) - 2 * half:,} characters left out ...]\n{clean[-half:]}"
    )


def exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return error.code & 255 if isinstance(error.code, int) else 1


def text_of(error: BaseException) -> str:
    try:
        return short(str(error), 1_000)
    except BaseException as worse:  # noqa: BLE001 - a __str__ of the code's own
        return f"(its text could not be had: {type(worse).__name__})"


def failure(error: BaseException, code: str) -> dict[str, str]:
    """An exception with the lines of the code that led to it: the first and the last few."""
    lines = code.splitlines()
    frames: list[str] = []
    if isinstance(error, SyntaxError) and error.filename == NAME and error.lineno:
        frames.append(frame(error.lineno, "the code", lines))
    trace = error.__traceback__
    while trace is not None:
        inside = trace.tb_frame.f_code
        if inside.co_filename == NAME:
            frames.append(frame(trace.tb_lineno, inside.co_name, lines))
            if len(frames) > 2 * FRAMES_MAX:
                del frames[FRAMES_MAX]
        trace = trace.tb_next
    if len(frames) > FRAMES_MAX:
        frames[2 : -(FRAMES_MAX - 2)] = ["  ..."]
    return {
        "type": short(type(error).__name__, 100),
        "message": text_of(error),
        "traceback": short("\n".join(frames), 2_000),
    }


def frame(number: int, function: str, lines: list[str]) -> str:
    line = lines[number - 1].strip()[:200] if 0 < number <= len(lines) else ""
    where = "" if function in ("<module>", "the code") else f" in {function}"
    return f"line {number}{where}: {line}"


def draw_open_figures() -> None:
    """Figures that are open at the end become files: `plt.show()` has no screen here."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or any(name.endswith((".png", ".svg", ".pdf")) for name in os.listdir(".")):
        return
    for number in pyplot.get_fignums():
        pyplot.figure(number).savefig(f"figure_{number}.png")


if __name__ == "__main__":
    sys.exit(main())
