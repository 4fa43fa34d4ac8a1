"""Which code makes objects of bytes, by more than reading data: nobody does so unseen."""

import ast
from pathlib import Path

import offload

ROOT = Path(offload.__file__).parent
# Calls that may run what they read.
DANGEROUS = {
    ("pickle", "load"),
    ("pickle", "loads"),
    ("pickle", "Unpickler"),
    ("marshal", "loads"),
    ("marshal", "load"),
    ("shelve", "open"),
    ("", "eval"),
    ("", "exec"),
    ("", "compile"),
}
# By module: what it reads, and why that is no word of a worker from which nothing is unpickled.
KNOWN = {
    # In workers and their supervisor: what the server has sent, or they themselves have made.
    "_child/control.py": "settings, in the supervisor",
    "_child/executor_task.py": "arguments, in a worker of an executor",
    "_child/functions.py": "functions by value, in a worker",
    "_child/logs.py": "its own records, in a worker",
    "_child/program.py": "the program that a child was told to run",
    "_child/spawn.py": "settings, in a new interpreter",
    "_child/main_module.py": "the main module, in a worker",
    "_child/start.py": "the greeting and the initializer, in a worker",
    "_child/task.py": "arguments, in a worker",
    "_child/worker.py": "arguments, in a worker",
    "_wire/raised.py": "its own exceptions, in a worker",
    # Frames without `Flag.DATA`, which `DataAssembler` lets none of its workers send.
    "_pool/codec.py": "decode_reply and decode_error",
    "_pool/progress.py": "progress_in",
    "_pool/short_cut.py": "results, if no flag of NOT_INLINE is set",
    "_workers/logs.py": "_unpickled",
    "_wire/large.py": "files, for decode_reply and for workers",
    "_wire/pickling.py": "for decode_error",
    "_wire/shared_buffers.py": "arguments, in a worker",
    # No word of a worker.
    "_typed_json/annotations.py": "annotations of the program's own functions",
    "_cli/measure.py": "what it has pickled itself",
    "_cli/doctor.py": "the report of the application, in a process of its own",
    "jobs/_codec/binding.py": "names of the program's own parameters",
}


def dangerous_calls(module: Path) -> list[str]:
    """Return the calls in a module that may run what they read."""
    found = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            what = node.value.id, node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            what = "", node.func.id
        else:
            continue
        if what in DANGEROUS:
            found.append(f"{'.'.join(filter(None, what))} in line {node.lineno}")
    return found


def test_every_place_that_unpickles_is_known():
    """A new one is a way from a worker to its server, until somebody has looked at it."""
    found = {}
    for module in ROOT.rglob("*.py"):
        if calls := dangerous_calls(module):
            found[str(module.relative_to(ROOT))] = calls
    assert set(found) == set(KNOWN), {
        "new": {each: found[each] for each in set(found) - set(KNOWN)},
        "gone": set(KNOWN) - set(found),
    }
    for module in ("_pool/data_replies.py", "_workers/data_logs.py", "_wire/data_reader.py"):
        assert module not in found
