"""Candidates that forge answers, flood the pipe, leave processes behind or end badly get a verdict all the same.

They are NumPy functions, whose processes start in a fraction of a second.
"""

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from bptt.verify.messages import Message, Sender, Unreadable, packed, received, unpacked
from bptt.verify.processes import how_it_ended
from bptt.verify.trials import Answers, Question, Request, ask, collected, questions
from bptt.verify.verdict import Verdict, judge

LIMIT = 120  # seconds, to end a hang
RIGHT = """
    import numpy as np
    from bptt.cells import CELLS
    from bptt.layers import Recurrent

    def right(case):
        state = CELLS["rnn"].state
        network = Recurrent("rnn", 1)
        initial, final = (state(case[of + "h"]) for of in ("initial.", "d.final."))
        output, last, traces = network.forward(case, case["x"], initial)
        d = network.backward(case, case["d.output"], final, traces)
        found = {"output": output, "d.x": d.x, "final.h": last.h, "d.initial.h": d.initial_state.h}
        return found | {f"d.{name}": value for name, value in d.parameters.items()}
"""


@pytest.fixture(scope="module")
def about() -> list[Question]:
    return questions(Request("", "rnn"), quick=True)[:2]


def written(tmp_path: Path, body: str, before: str = "") -> Request:
    """A request for `mine`, a function with this body, in a module that begins with `before`."""
    function = "\ndef mine(case):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    file = tmp_path / "candidate_file.py"
    file.write_text(textwrap.dedent(before) + textwrap.dedent(RIGHT) + function, encoding="utf-8")
    return Request(f"{file}:mine", "rnn")


def verdict(request: Request, about: list[Question], limit: float = LIMIT) -> Verdict:
    return judge(request, about, ask(request, about, limit))


FORGED = """
import io, json, os, sys
for number in range(3, 40):
    for content in (b"", b"\\0" * 4096, (9).to_bytes(8, "big") + bytes(32) + b"{\\"end\\": 0}"):
        try:
            os.write(number, content)
        except OSError:
            pass
os._exit(0)
"""
BROKEN = {  # what it returns instead of d.x, and what is said of it
    "text": ("'many'", "d.x is a str, where an array of real numbers is due"),
    "an array of text": ("np.array(['1.0'])", "d.x is an array of str96, where an array of real numbers is due"),
    "nothing": ("None", "d.x is a NoneType, where an array of real numbers is due"),
    "rows of several lengths": ("[[1], [1, 2]]", "d.x is a list, where an array of real numbers is due"),
    "complex numbers": ("case['x'] * 1j", "d.x is an array of complex128, where an array of real numbers is due"),
    "an object": ("object()", "d.x is a object, where an array of real numbers is due"),
    "another shape": ("case['x'].T", "d.x has shape (3, 2, 5), where (5, 2, 3) is due"),
    "no axes": ("0.0", "d.x has shape (), where (5, 2, 3) is due"),
    "no entries": ("[]", "d.x has shape (0,), where (5, 2, 3) is due"),
    "more than memory": (
        "np.broadcast_to(0.0, (10**6, 10**6))",
        "d.x has shape (1000000, 1000000), which is more than",
    ),
    "NaN": ("case['x'] * np.nan", "d.x (not a number)"),
    "infinity": ("case['x'] + np.inf", "Wrong backward: d.x"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_is_wrong(kind: str, tmp_path: Path, about: list[Question]) -> None:
    value, message = BROKEN[kind]
    found = verdict(written(tmp_path, f"return right(case) | {{'d.x': {value}}}"), about)
    assert found.exit_code == 1 and message in found.sentence, found.sentence


ENDS = {
    "forges messages": (FORGED, "its answers cannot be read: a message is", "it ends the process"),
    "exits": ("import sys; sys.exit(3)", "it ends the process with exit code 3"),
    "exits with a word": ("import sys; sys.exit('enough')", "it ends the process with exit code 1"),
    "exits at once": ("import os; os._exit(0)", "it ends the process before it has answered"),
    "is stopped by a signal without a name": ("import os; os.kill(os.getpid(), 40)", "it crashes: "),
    "kills its supervisor": (
        "import os, time; os.kill(os.getppid(), 9); time.sleep(10**6)",
        "it ends the process that supervises it",
    ),
    "closes everything": (
        "import os; os.closerange(0, 99); return right(case)",
        "it ends the process with exit code 1",
    ),
    "raises what cannot be printed": (
        "class Odd(Exception):\n    def __str__(self): raise self\nraise Odd",
        "it raises Odd: ",
    ),
    "raises a long message": ("raise ValueError('long ' * 10**6)", "… (candidate_file.py, line"),
    "raises what is no Exception": ("raise KeyboardInterrupt", "it raises KeyboardInterrupt: "),
    "calls itself": ("return mine(case)", "it raises RecursionError: "),
}


@pytest.mark.parametrize("kind", ENDS)
def test_what_ends_without_an_answer_could_not_be_run(kind: str, tmp_path: Path, about: list[Question]) -> None:
    body, *messages = ENDS[kind]
    if kind == "kills its supervisor" and sys.platform != "linux":
        pytest.skip("a process ends with its parent on Linux alone")
    if "signal" in kind:
        skip_without_posix()
    found = verdict(written(tmp_path, body), about)
    assert found.exit_code == 2 and any(message in found.sentence for message in messages), found.sentence
    assert len(found.sentence) < 2000 and "\n" not in found.sentence


IMPORTS = {
    "prints a lot": "print('x' * 10**7); import os; os.write(1, b'y' * 10**6)",
    "reads its input": "import sys; assert sys.stdin.read() == ''",
    "closes its streams": "import sys; sys.stdout.close(); sys.stdin.close()",
    "has a thread that never ends": "import threading as t, time; t.Thread(target=time.sleep, args=(10**6,)).start()",
    "never ends at exit": "import atexit, time; atexit.register(time.sleep, 10**6)",
    "leaves its folder": "import os, tempfile; os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())",
    "changes NumPy's printing and errors": "import numpy as np; np.seterr(all='raise', under='ignore')",
}


@pytest.mark.parametrize("kind", IMPORTS)
def test_what_a_module_does_when_it_is_imported_is_no_part_of_the_verdict(
    kind: str, tmp_path: Path, about: list[Question]
) -> None:
    if kind == "leaves its folder":
        skip_without_posix()
    found = verdict(written(tmp_path, "return right(case)", before=IMPORTS[kind]), about)
    assert found.status == "right", found.sentence


@pytest.mark.parametrize("before", ["import sys; sys.exit(0)", "raise OSError('no licence')", "import os; os._exit(4)"])
def test_a_module_that_ends_when_it_is_imported_could_not_be_run(
    before: str, tmp_path: Path, about: list[Question]
) -> None:
    found = verdict(written(tmp_path, "return right(case)", before), about)
    assert found.exit_code == 2 and ("no licence" in found.sentence or "exit code" in found.sentence), found.sentence


LEFT_BEHIND = """
import os, subprocess, sys, time
from pathlib import Path
pids = Path(__file__).with_name("pids.txt")
if not pids.exists():
    wait = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]
    plain, own = subprocess.Popen(wait), subprocess.Popen(wait, start_new_session=True)
    orphan = "import subprocess as s, sys; print(s.Popen(sys.argv[1:], start_new_session=True, stdout=s.DEVNULL).pid)"
    printed = subprocess.run([sys.executable, "-c", orphan, *wait], stdout=subprocess.PIPE, text=True).stdout
    forked = os.fork()
    if not forked:  # it has the pipe that answers are sent through
        os.setsid()
        time.sleep(1000)
    pids.write_text(f"{plain.pid} {own.pid} {printed.strip()} {forked}")
"""


@pytest.mark.parametrize(
    ("body", "limit", "message"),
    [
        ("return right(case)", LIMIT, "Right: "),
        ("os._exit(5)", LIMIT, "it ends the process with exit code 5"),
        ("os.kill(os.getpid(), 11)", LIMIT, "it crashes: SIGSEGV"),
        pytest.param("time.sleep(10**6)", 20.0, "it does not end: stopped after 20 s", marks=pytest.mark.slow),
    ],
)
def test_no_process_survives(body: str, limit: float, message: str, tmp_path: Path, about: list[Question]) -> None:
    if sys.platform != "linux" or not Path("/proc/self/stat").exists():
        pytest.skip("orphans are found on Linux alone, in /proc")
    before = time.monotonic()
    found = verdict(written(tmp_path, LEFT_BEHIND + body), about, limit)
    assert message in found.sentence, found.sentence
    pids = [int(pid) for pid in (tmp_path / "pids.txt").read_text(encoding="utf-8").split()]
    assert len(pids) == 4 and not [pid for pid in pids if is_running(pid)]
    assert time.monotonic() - before < 1000  # nobody waited for them


def test_a_process_that_the_checker_cannot_end_does_not_hold_it_up(
    tmp_path: Path, about: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems where orphans are not found: the process that is left behind holds the pipe of the answers open."""
    skip_without_posix()
    supervisor = tmp_path / "supervisor.py"
    source = (Path(__file__).parents[2] / "bptt" / "verify" / "supervisor.py").read_text(encoding="utf-8")
    assert 'Path("/proc")' in source
    supervisor.write_text(source.replace('Path("/proc")', 'Path("/no-such-folder")'), encoding="utf-8")
    monkeypatch.setattr("bptt.verify.processes.SUPERVISOR", supervisor)
    body = """
    import os, time
    from pathlib import Path
    pid = Path(__file__).with_name("pid.txt")
    if not pid.exists():
        if not os.fork():
            os.setsid()
            pid.with_suffix(".part").write_text(str(os.getpid()))
            pid.with_suffix(".part").rename(pid)
            time.sleep(1000)
        while not pid.exists():  # it has left the process group
            time.sleep(0.01)
    """
    for end, message in (("return right(case)", "Right: "), ("os._exit(5)", "it ends the process with exit code 5")):
        if "exit" in end:
            monkeypatch.setattr("bptt.verify.processes.DRAIN", 0.5)  # there is nothing to be read
        before = time.monotonic()
        found = verdict(written(tmp_path, textwrap.dedent(body) + end), about)
        pid = int((tmp_path / "pid.txt").read_text(encoding="utf-8"))
        was_running = is_running(pid)
        os.kill(pid, signal.SIGKILL)
        (tmp_path / "pid.txt").unlink()
        assert message in found.sentence and was_running, found.sentence
        assert time.monotonic() - before < LIMIT  # the checker did not wait until its time was up


def test_a_program_that_leaves_a_process_behind_is_not_waited_for(about: list[Question]) -> None:
    """The process has the standard output and error of the program."""
    skip_without_posix()
    request = Request("sh -c 'sleep 1000 & echo enough >&2; exit 3' {case} {out}", "rnn", program=True)
    found = verdict(request, about)
    assert found.exit_code == 2 and found.sentence == "sh ended with exit code 3: enough", found.sentence


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # what has ended and was not asked how is there still, as a zombie
    return not (stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX")


def skip_without_posix() -> None:
    if os.name != "posix":
        pytest.skip("signals and forks are POSIX")


KEY = bytes(range(32))


def stream_of(*messages: tuple[dict, dict], key: bytes = KEY) -> bytes:  # type: ignore[type-arg]
    parts: list[bytes] = []
    sender = Sender(parts.append, key)
    for content, arrays in messages:
        sender.send(content, arrays)
    return b"".join(parts)


def read_all(stream: bytes, key: bytes = KEY) -> list[Message]:
    left = [stream]

    def read(count: int) -> bytes:
        part, left[0] = left[0][: min(count, 7)], left[0][min(count, 7) :]  # as from a pipe, in pieces
        return part

    return list(received(read, key))


def test_messages_arrive_as_they_were_sent() -> None:
    array = np.array([[1.5, np.nan], [-0.0, np.inf]])
    messages = read_all(stream_of(({"ways": ["first"]}, {"first>\ud800é": array, "first>d": np.zeros(())}), ({}, {})))
    assert [message.content for message in messages] == [{"ways": ["first"]}, {}]
    assert list(messages[0].arrays) == ["first>\ud800é", "first>d"]
    assert messages[0].arrays["first>\ud800é"].tobytes() == array.tobytes()
    assert read_all(b"") == []


def test_messages_that_are_not_authentic_are_refused() -> None:
    one, two = stream_of(({"end": None}, {})), stream_of(({"a": 1}, {}), ({"end": None}, {}))
    assert len(read_all(two)) == 2
    for stream, message in (
        (one[:-1] + b"!", "not authentic"),
        (stream_of(({"end": None}, {}), key=bytes(32)), "not authentic"),
        (one + one, "not authentic"),  # the same once more
        (two[len(two) - len(one) :], "not authentic"),  # the second without the first
        (one[:-1], "cut off"),
        (one[:5], "cut off"),
        ((1 << 62).to_bytes(8, "big") + bytes(32) + b"...", "a message of 4611686018427387904 bytes is too large"),
        (bytes(100), "not authentic"),
    ):
        with pytest.raises(Unreadable, match=message):
            read_all(stream)


@pytest.mark.parametrize(
    "body", [b"", b"{}", bytes(8), b"\xff" * 8, (2).to_bytes(8, "big") + b"[]", (4).to_bytes(8, "big") + b"null"]
)
def test_a_body_that_is_no_message_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        unpacked(body)
    whole = packed(Message({}, {"a": np.zeros(3)}))
    with pytest.raises(Unreadable):
        unpacked(whole[:-1])


def test_a_message_runs_nothing() -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        packed(Message({}, {"a": np.array([print], object)}))
    head = b'{"content": {}, "names": ["a"]}'
    import io

    stream = io.BytesIO()
    np.save(stream, np.array([print], object), allow_pickle=True)
    with pytest.raises(Unreadable, match="malformed"):
        unpacked(len(head).to_bytes(8, "big") + head + stream.getvalue())


def test_what_comes_is_checked_even_if_it_is_authentic(about: list[Question]) -> None:
    """A candidate could find the key in the memory of its own process: that gives no traceback either."""
    run = Message({"ways": ["first"]}, {f"first>{name}": value for name, value in about[0].truth.items()})
    end = Message({"end": None}, {})
    assert len(collected(iter([run, run, end]), about).runs) == 2
    for events, message in (
        ([run, end], "it ends the process before it has answered"),
        ([run, run, run, end], "there are more of them than cases"),
        ([Message({}, {})], "a message has no results"),
        ([Message({"ways": ["again"]}, {})], "a message has no results"),
        ([Message({"ways": ["first", 1]}, {})], "a message has no results"),
        ([Message({"ways": ["first"]}, {"other>d.x": np.zeros(3)})], "a message has 'other>d.x'"),
        ([Message({"ways": ["first"]}, {"first>d.x": np.zeros(3, "U5")})], "a message has 'first>d.x', of <U5"),
        ([Message({"end": "well"}, {})], "a message has no problem"),
        ([Message({"end": {"kind": "WrongAnswer", "message": 3}}, {})], "a message has no problem"),
        ([], "it does not end, and cannot be stopped"),
    ):
        answers: Answers = collected(iter(events), about)
        assert message in answers.problem and not answers.is_wrong, answers.problem


def test_every_end_of_a_process_has_words() -> None:
    for report, words in (
        ("time", "it does not end: stopped after 3 s"), ("0", "it ends the process before it has answered"),
        ("7", "it ends the process with exit code 7"), ("-11", "it crashes: SIGSEGV"),
        ("-4096", "it crashes: signal 4096"), ("", "it ends the process that supervises it"),
    ):  # fmt: skip
        assert how_it_ended(report, 3.0) == words
