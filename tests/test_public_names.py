"""What can be imported is what ``__all__`` says, and which classes may be subclassed is decided."""

import importlib
import inspect
import pkgutil
import sys
from types import ModuleType

import pytest

import fastapi_httpx_pool

from .support.families import FAMILIES

MODULES = [
    module.name
    for module in pkgutil.walk_packages(fastapi_httpx_pool.__path__, "fastapi_httpx_pool.")
    if module.name.rpartition(".")[2] != "httpx2" or "httpx2" in FAMILIES
]
"""Every module of the package that can be imported here, without its root."""

PUBLIC_MODULES = [name for name in MODULES if "._" not in name]

# May be subclassed, and why.
OPEN_CLASSES = {
    "ClientSettings": "settings models are extended with fields of one's own",
    "LimitSettings": "the same",
    "TLSSettings": "the same",
    "TimeoutSettings": "the same",
    "MergedStreamResponse": "a Starlette response",
    "PoolTransport": "it stands wherever the family's transport stands, which people subclass",
    "StreamingProxyResponse": "a Starlette response",
    "UpstreamResponse": "plain data of the hook",
}


def _defined_in(module: ModuleType) -> dict[str, object]:
    """Return the public functions and classes that a module defines itself."""
    return {
        name: thing
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
    }


@pytest.mark.parametrize("name", ["fastapi_httpx_pool", *MODULES])
def test_all_is_a_sorted_tuple_of_what_is_there(name: str) -> None:
    """``__all__`` is a tuple, sorted (constants first), without repetition, and each of its names can be imported."""
    module = importlib.import_module(name)
    exported = module.__all__
    assert isinstance(exported, tuple)
    assert list(exported) == sorted(set(exported), key=lambda each: (not each.isupper(), each))
    assert [each for each in exported if not hasattr(module, each)] == []


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_all_leaves_nothing_out(name: str) -> None:
    """Every function and class that a public module defines under a public name is in its ``__all__``."""
    module = importlib.import_module(name)
    assert sorted(set(_defined_in(module)) - set(module.__all__)) == []


def test_root_exports_are_what_can_be_imported() -> None:
    """The root has the names of its ``__all__``, and beside them only its modules."""
    names = {
        name
        for name in dir(fastapi_httpx_pool)
        if not name.startswith("_") and not inspect.ismodule(getattr(fastapi_httpx_pool, name))
    }
    assert names == set(fastapi_httpx_pool.__all__)
    assert not hasattr(fastapi_httpx_pool, "FastAPI")


def test_star_import() -> None:
    """``from fastapi_httpx_pool import *`` gives all of them."""
    names: dict[str, object] = {}
    exec("from fastapi_httpx_pool import *", names)  # a star import is not allowed inside a function
    assert set(fastapi_httpx_pool.__all__) <= set(names)


@pytest.mark.parametrize(
    "name", ["clients", "dependencies", "fanout", "lifespan", "middleware", "proxy", "settings", "sync"]
)
def test_root_exports_the_faces(name: str) -> None:
    """Every class and factory of the faces is exported by the root, as the same object."""
    module = importlib.import_module(f"fastapi_httpx_pool.{name}")
    inside = {
        "check_client_class",
        "check_settings",
        "allowed_addresses_of",
        "AllowedAddresses",
        "FamilyName",
        "RequestLike",
    }
    for exported in set(module.__all__) - inside:
        assert getattr(fastapi_httpx_pool, exported) is getattr(module, exported)


def test_root_exports_our_errors() -> None:
    """Every error that a user can meet is exported: the classes below ClientError, and FamilyNotInstalled."""
    from fastapi_httpx_pool import exceptions  # noqa: PLC0415 -- the module, beside the names of the root

    ours = {
        name
        for name, thing in _defined_in(exceptions).items()
        if isinstance(thing, type) and not issubclass(thing, exceptions.TransportError)
    }
    assert ours <= set(fastapi_httpx_pool.__all__)


def test_classes_are_final_or_open_on_purpose() -> None:
    """An exported class is @final, or an exception, or listed above with the reason why it is open."""
    classes = {
        name: thing
        for name in fastapi_httpx_pool.__all__
        if inspect.isclass(thing := getattr(fastapi_httpx_pool, name))
    }
    undecided = [
        name
        for name, thing in classes.items()
        if not issubclass(thing, Exception) and not getattr(thing, "__final__", False) and name not in OPEN_CLASSES
    ]
    assert undecided == []
    assert [name for name in OPEN_CLASSES if getattr(classes[name], "__final__", False)] == []


def test_import_does_not_need_httpx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is imported, and its default client's class found, where httpx2 is missing."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "fastapi_httpx_pool"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    package = importlib.import_module("fastapi_httpx_pool")
    assert package is not fastapi_httpx_pool
    assert importlib.import_module("fastapi_httpx_pool.transports.httpx").Client.__name__ == "Client"


@pytest.mark.parametrize("name", MODULES)
def test_module_docstring(name: str) -> None:
    """Every module says at its top what it is for."""
    text = importlib.import_module(name).__doc__
    assert text
    assert text.strip()[0].isupper() or text.strip()[0].isalpha()
