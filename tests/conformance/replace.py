"""Make every way to get a stock event loop give ours instead.

Suites written for asyncio name its loop in many ways: `asyncio.new_event_loop()`,
`asyncio.SelectorEventLoop(selector)`, `asyncio.EventLoop`, `unix_events._UnixSelectorEventLoop`,
`asyncio.DefaultEventLoopPolicy()`, `asyncio.BaseEventLoop()`. All of them are three objects under
many names, and the names differ between Python versions. So we look for the objects, not for the
names: each attribute of an asyncio module that is one of the three becomes its stand-in.

`asyncio.run`, `Runner`, `new_event_loop` and `IsolatedAsyncioTestCase` ask the default policy, and
so need no replacement; a policy that a test sets keeps its say.
"""

import asyncio
import importlib
import sys
from asyncio import base_events, unix_events
from collections.abc import Callable
from typing import Any

Factory = Callable[[], asyncio.AbstractEventLoop]


def resolve(spec: str) -> Any:
    """The object that `module:name` names."""
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)


def loop_class(factory: Factory) -> type:
    """The class of loop that `factory` makes: itself, when it is a class."""
    if isinstance(factory, type):
        return factory
    loop = factory()
    loop.close()
    return type(loop)


def stand_in(stock: type, target: type, factory: Factory) -> type:
    """A class under the name of `stock` that makes loops with `factory`, whatever it is given.

    Called, it makes exactly what a user of the factory gets: an instance of a subclass would, for
    one, accept new attributes that the real class may refuse. Subclassed, patched and asked with
    isinstance, it is `target`. Arguments are ignored: the only one is the selector.
    """

    class StandIn(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return factory() if cls is twin else super().__call__(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            if cls is twin:
                return isinstance(instance, target)
            return type.__instancecheck__(cls, instance)

        def __setattr__(cls, name: str, value: Any) -> None:
            if cls is twin:
                setattr(target, name, value)
            else:
                super().__setattr__(name, value)

        def __delattr__(cls, name: str) -> None:
            if cls is twin:
                delattr(target, name)
            else:
                super().__delattr__(name)

    twin: type | None = None  # until the class exists, the rules above concern nobody
    twin = StandIn(stock.__name__, (target,), {"__module__": stock.__module__})
    return twin


def policy_class(spec: str, stock: type, factory: Factory) -> type:
    """The policy that the loop's own module offers, or the stock one made to use our factory."""
    module = sys.modules[spec.partition(":")[0]]
    own = getattr(module, "EventLoopPolicy", None)
    return own or type(stock.__name__, (stock,), {"_loop_factory": staticmethod(factory)})


def install(spec: str) -> type:
    """Replace the stock loop by what the factory `spec` makes; return the class of that."""
    factory = resolve(spec)
    ours = loop_class(factory)
    loop = unix_events._UnixSelectorEventLoop
    base = base_events.BaseEventLoop
    # Python 3.14 put an underscore before the name, as a first step to remove policies.
    policy = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None) or getattr(
        unix_events, "_DefaultEventLoopPolicy", None
    )
    stand_ins = {
        id(loop): stand_in(loop, ours, factory),
        # Tests make a BaseEventLoop to have any loop at all; what they derive from it, or borrow
        # from it, is still stock.
        id(base): stand_in(base, base, factory),
    }
    if policy is not None:
        stand_ins[id(policy)] = policy_class(spec, policy, factory)

    modules = [m for n, m in sys.modules.items() if n.partition(".")[0] == "asyncio"]
    for module in modules:
        for name, value in list(vars(module).items()):
            if id(value) in stand_ins:
                setattr(module, name, stand_ins[id(value)])
    if policy is None:  # Python 3.16 on: no policy to ask
        for module in modules:
            if hasattr(module, "new_event_loop"):
                vars(module).update(new_event_loop=factory)
    return ours
