"""Finds calls in async functions that are known to hold the event loop, by reading their source.

Only what is known is told: a name is followed to the object that it stands for (through imports,
globals, closures and `self`), and that object is in the list below or it is not. Whether a loop is
long or a file is big cannot be seen in the source, and is not guessed; `offload.watchdog` sees it
at run time.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import os
import re
import site
import sysconfig
import textwrap
import types
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from offload._pool.target import is_offloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BlockingCall", "blocking_calls", "is_async", "unwrapped"]

_SLEEP = "await anyio.sleep(…) or asyncio.sleep(…) instead"
_HTTP = "use an async client (httpx.AsyncClient), or await anyio.to_thread.run_sync(…)"
_PROCESS = "await anyio.run_process(…) or asyncio.create_subprocess_exec(…) instead"
_THREAD = "it waits, so a thread is enough: await anyio.to_thread.run_sync(…)"
_COMPUTES = (
    "it computes, so a thread does not help: put it into a plain function, decorate that with "
    "@offload and await it"
)
_FUTURE = "await asyncio.wrap_future(…) instead"
_WRAPPED = "await the decorated function itself: __wrapped__ runs it here and now"

# Names of functions as a regular expression, and what to do instead.
_VERBS = "(request|get|post|put|patch|delete|head|options|send|stream)"
_KNOWN: tuple[tuple[str, str], ...] = (
    (r"time\.sleep", _SLEEP),
    (rf"requests\.(api\.|sessions\.Session\.)?{_VERBS}", _HTTP),
    (rf"httpx2?\.(_api\.|_client\.)?(Client\.)?{_VERBS}", _HTTP),
    (r"urllib\.request\.(urlopen|urlretrieve|OpenerDirector\.open)", _HTTP),
    (r"urllib3\..*\b(request|urlopen)", _HTTP),
    (r"http\.client\.HTTPS?Connection\.(request|getresponse|connect)", _HTTP),
    (r"subprocess\.(run|call|check_call|check_output|getoutput|getstatusoutput)", _PROCESS),
    (r"subprocess\.Popen\.(wait|communicate)", _PROCESS),
    (r"(os|posix|nt)\.(system|popen|wait|waitpid|wait3|wait4)", _PROCESS),
    (r"_?socket\.(create_connection|getaddrinfo|gethostby(name|name_ex|addr))", _THREAD),
    (r"smtplib\.(SMTP|SMTP_SSL)|ftplib\.FTP|imaplib\.IMAP4(_SSL)?|poplib\.POP3", _THREAD),
    (r"(psycopg2?|pymysql|MySQLdb|mysql\.connector|pymssql|oracledb)\.(\w+\.)*connect", _THREAD),
    (r"_?(sqlite3|pyodbc)\.(\w+\.)*connect", _THREAD),
    (r"_?sqlite3\.(Connection|Cursor)\.(execute|executemany|executescript|commit)", _THREAD),
    (r"shutil\.(copytree|rmtree|move|make_archive|unpack_archive)", _THREAD),
    (r"builtins\.input", _THREAD),
    (r"threading\.(Thread\.join|Event\.wait|Condition\.wait|Barrier\.wait)", _THREAD),
    (r"(queue\.Queue|multiprocessing\.queues\.\w+)\.(get|put|join)", _THREAD),
    (r"concurrent\.futures\._base\.Future\.(result|exception)", _FUTURE),
    (r"concurrent\.futures\.(_base\.)?(wait|as_completed)", _FUTURE),
    (r"_?hashlib\.(pbkdf2_hmac|scrypt)", _COMPUTES),
    (r"bcrypt\.(_bcrypt\.)?(hashpw|checkpw|kdf)", _COMPUTES),
    (r"argon2\..*PasswordHasher\.(hash|verify)", _COMPUTES),
    (r"passlib\..*\.(hash|verify)", _COMPUTES),
    (r"pandas\.(.*\.)?read_(csv|excel|parquet|json)", _COMPUTES),
)
_PATTERN = re.compile("|".join(f"(?P<k{i}>{names})" for i, (names, _) in enumerate(_KNOWN)))
# How many functions of the application to follow from an endpoint, one into the next.
_DEPTH = 5


class BlockingCall(NamedTuple):
    """A call that holds the event loop.

    Attributes:
        name: what is called, such as "time.sleep".
        file: where.
        line: where, from 1.
        via: the functions between the async function and the call, outermost first.
        advice: what to do instead.
    """

    name: str
    file: str
    line: int
    via: tuple[str, ...]
    advice: str


def unwrapped(function: Any) -> Any:
    """Return the function below partials, decorators that keep `__wrapped__`, and binding."""
    for _ in range(100):  # a chain of wrappers is never this long; a cyclic one would not end
        if is_offloaded(function):
            return function
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            break
    return function


def is_async(function: Any) -> bool:
    """Return whether calling `function` runs its code on the event loop."""
    function = unwrapped(function)
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def blocking_calls(function: Any) -> list[BlockingCall]:
    """Return the calls in a function, and in those of the same application that it calls, in order.

    Args:
        function: an async function, or a method bound to its object.
    """
    return list(_search(function, (), set()))


def _search(function: Any, via: tuple[str, ...], seen: set[Any]) -> Iterator[BlockingCall]:
    owner = getattr(function, "__self__", None)
    plain = unwrapped(function)
    code = getattr(plain, "__code__", None)
    if (
        is_offloaded(plain)
        or not isinstance(plain, types.FunctionType)
        or code is None
        or code in seen
    ):
        return
    seen.add(code)
    names = _Names(plain, owner)
    for call in _calls_of(plain, names):
        found = names.look_up(call.func)
        if found is None:
            continue
        line = code.co_firstlineno + call.lineno - 1
        known = _known(found)
        if known is not None:
            yield BlockingCall(known[0], code.co_filename, line, via, known[1])
        elif len(via) < _DEPTH and _is_of_application(found.value):
            yield from _search(found.value, (*via, plain_name(found.value)), seen)


def plain_name(function: Any) -> str:
    """Return the qualified name of a function."""
    return str(getattr(unwrapped(function), "__qualname__", function))


@dataclass(frozen=True, slots=True)
class _Found:
    """What a name stands for.

    Attributes:
        value: the object itself; for a method of an instance that is made at run time, the function
            in its class.
        names: what it can be known as.
        is_instance: whether a value of the class `value` is meant, and not the class.
    """

    value: Any
    names: tuple[str, ...] = ()
    is_instance: bool = False


def _known(found: _Found) -> tuple[str, str] | None:
    if found.is_instance:
        return None
    for name in found.names:
        if name.endswith(".__wrapped__"):
            return name, _WRAPPED
        match = _PATTERN.fullmatch(name)
        if match is not None and match.lastgroup is not None:
            group = next(each for each, text in match.groupdict().items() if text is not None)
            return name, _KNOWN[int(group[1:])][1]
    return None


class _Names:
    """What the names in a function stand for, as far as that can be told without running it."""

    def __init__(self, function: types.FunctionType, owner: Any) -> None:
        code = function.__code__
        # None: a parameter or a variable, which may be anything and hides what is outside.
        self._local: dict[str, _Found | None] = dict.fromkeys(
            (*code.co_varnames, *code.co_cellvars)
        )
        self._globals = function.__globals__
        self._closure: dict[str, Any] = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            try:
                self._closure[name] = cell.cell_contents
            except ValueError:  # it has no value yet
                self._local[name] = None
        if owner is not None and code.co_argcount:
            self._local[code.co_varnames[0]] = _Found(owner)

    def note(self, node: ast.AST) -> None:
        """Take note of what a statement tells of a local name."""
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    root = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._import(alias.asname or root, root)
            case ast.ImportFrom(module=str(module), names=aliases, level=0):
                for alias in aliases:
                    self._import(alias.asname or alias.name, module, alias.name)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
                self._instance(name, call)
            case ast.withitem(context_expr=ast.Call() as call, optional_vars=ast.Name(id=name)):
                self._instance(name, call)
            case _:
                pass

    def hide(self, target: ast.expr) -> None:
        """Take note of the names of a comprehension, which may be anything."""
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                self._local[node.id] = None

    def _import(self, name: str, module: str, attribute: str | None = None) -> None:
        try:
            found: Any = import_module(module)
            value = found if attribute is None else getattr(found, attribute)
        except Exception:  # noqa: BLE001 - whatever importing it raises: then nothing is known
            return
        names = (module,) if attribute is None else _names_of(value, f"{module}.{attribute}")
        self._local[name] = _Found(value, names)

    def _instance(self, name: str, call: ast.Call) -> None:
        made = self.look_up(call.func)
        if made is not None and isinstance(made.value, type) and not made.is_instance:
            self._local[name] = _Found(made.value, is_instance=True)

    def look_up(self, node: ast.expr) -> _Found | None:
        """Return what an expression stands for; None if that is not to be told."""
        match node:
            case ast.Name(id=name):
                return self._name(name)
            case ast.Attribute(value=inner, attr=attribute):
                owner = self.look_up(inner)
                return None if owner is None else _attribute(owner, attribute)
            case ast.Call(func=function):  # requests.Session().get(…)
                made = self.look_up(function)
                if made is not None and isinstance(made.value, type) and not made.is_instance:
                    return _Found(made.value, is_instance=True)
                return None
            case _:
                return None

    def _name(self, name: str) -> _Found | None:
        if name in self._local:
            return self._local[name]
        for scope in (self._closure, self._globals, vars(builtins)):
            if name in scope:
                value = scope[name]
                return _Found(value, _names_of(value, name))
        return None


def _attribute(owner: _Found, name: str) -> _Found | None:
    value = owner.value
    if name == "__wrapped__" and is_offloaded(value):
        return _Found(value.__wrapped__, (f"{plain_name(value)}.__wrapped__",))
    # Statically: a property would run code of the application.
    try:
        if isinstance(value, types.ModuleType):
            found = getattr(value, name)
            return _Found(found, _names_of(found, f"{value.__name__}.{name}"))
        found = inspect.getattr_static(value, name)
    except Exception:  # noqa: BLE001 - whatever a module's own __getattr__ raises
        return None
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    is_method = isinstance(found, types.FunctionType) and not is_offloaded(found)
    if is_method and not isinstance(value, type):
        found = types.MethodType(found, value)
    home = value if isinstance(value, type) else type(value)
    if isinstance(found, property):
        return None
    return _Found(found, _names_of(found, f"{home.__module__}.{home.__qualname__}.{name}"))


def _names_of(value: Any, written: str) -> tuple[str, ...]:
    """Return what an object can be known as: by its own account, and as it was found."""
    if isinstance(value, types.ModuleType):
        return (value.__name__,)
    plain = value.__func__ if isinstance(value, types.MethodType) else value
    module = getattr(plain, "__module__", None)
    qualname = getattr(plain, "__qualname__", None)
    if isinstance(module, str) and isinstance(qualname, str):
        return tuple(dict.fromkeys((written, f"{module}.{qualname}")))
    return (written,)


def _calls_of(function: types.FunctionType, names: _Names) -> Iterator[ast.Call]:
    """Yield the calls that happen while the function itself runs, in the order of the source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # typed in, compiled, or half of a line
        return
    definition = tree.body[0] if tree.body else None
    if isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for statement in definition.body:
            yield from _walk(statement, names)


def _walk(node: ast.AST, names: _Names) -> Iterator[ast.Call]:
    # What a nested function does happens when, and where, that is called.
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return
    for comprehension in getattr(node, "generators", ()):
        names.hide(comprehension.target)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, names)
    # After the parts: the right side of an assignment is evaluated before its name changes.
    names.note(node)
    if isinstance(node, ast.Call):
        yield node


def _is_of_application(value: Any) -> bool:
    """Return whether a function's source is the application's own, and not a library's."""
    plain = unwrapped(value)
    if is_offloaded(plain) or not isinstance(plain, types.FunctionType):
        return False
    return is_own_file(plain.__code__.co_filename)


@functools.cache
def _library_folders() -> tuple[str, ...]:
    folders = {sysconfig.get_path(each) for each in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    # Our own, which a checkout has outside of all of these.
    folders.add(__file__.rpartition("_cli")[0])
    return tuple(sorted(each.rstrip(f"/{os.sep}") + os.sep for each in folders if each))


def is_own_file(path: str) -> bool:
    """Return whether a file is outside of the folders of the interpreter and of packages."""
    return not path.startswith(("<", *_library_folders()))
