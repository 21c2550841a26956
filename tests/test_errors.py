"""The tree of errors: what every class answers, and how an error of the system becomes one of ours."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import fastxfer
from fastxfer import errors
from fastxfer.errors import (
    ChecksumError,
    DiskFullError,
    FastxferError,
    HTTPStatusError,
    InterruptedTransferError,
    OptionError,
    OverloadedError,
    RemoteChangedError,
    Retry,
    StorageError,
    TargetExistsError,
    TransferTimeoutError,
    storage_error,
)


def tree(cls: type[FastxferError] = FastxferError) -> Iterator[type[FastxferError]]:
    yield cls
    for each in cls.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from tree(each)


CLASSES = sorted(set(tree()), key=lambda cls: cls.__name__)


def make(cls: type[FastxferError]) -> FastxferError:
    """Returns an error of a class with what its constructor needs."""
    more: dict[str, Any] = {}
    if issubclass(cls, HTTPStatusError):
        more["status"] = 418
    if issubclass(cls, ChecksumError):
        more |= {"algorithm": "md5", "expected": "00", "actual": "11"}
    return cls("what went wrong", kept="5 MiB in x.part", **more)


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def error(request: pytest.FixtureRequest) -> FastxferError:
    cls: type[FastxferError] = request.param
    return make(cls)


def test_the_tree_is_there() -> None:
    assert len(CLASSES) >= 20


def test_every_error_answers_what_trying_again_can_do(error: FastxferError) -> None:
    assert isinstance(error.retry, Retry)


def test_every_error_has_an_exit_status(error: FastxferError) -> None:
    assert 1 <= error.exit_code <= 33


def test_every_error_says_what_went_wrong_and_what_was_kept(error: FastxferError) -> None:
    assert str(error) == error.message == "what went wrong"
    assert error.kept == "5 MiB in x.part"


def test_every_error_is_plain_json(error: FastxferError) -> None:
    told = json.loads(json.dumps(error.to_dict()))
    assert told == error.to_dict()
    assert told["type"] == type(error).__name__
    assert told["message"] == "what went wrong"
    assert told["retry"] in ("never", "same source", "other mirror")
    assert told["exit_code"] == error.exit_code


def test_every_error_is_public_with_its_docstring(error: FastxferError) -> None:
    cls = type(error)
    assert cls.__name__ in errors.__all__
    assert getattr(fastxfer, cls.__name__) is cls
    assert cls.__name__ in fastxfer.__all__
    assert cls.__doc__


def test_notes_of_python_do_not_reach_the_json(error: FastxferError) -> None:
    vars(error)["__notes__"] = ["a note"]  # what add_note of Python 3.11 keeps
    assert "__notes__" not in error.to_dict()


def test_all_names_exist_and_are_sorted() -> None:
    assert sorted(errors.__all__) == errors.__all__
    assert all(hasattr(errors, name) for name in errors.__all__)


def test_a_classs_own_fields_are_told() -> None:
    overloaded = OverloadedError("busy", status=429, retry_after_s=3.0)
    assert overloaded.to_dict()["status"] == 429
    assert overloaded.to_dict()["retry_after_s"] == 3.0
    wrong = ChecksumError("wrong", algorithm="md5", expected="00", actual="11")
    assert {k: wrong.to_dict()[k] for k in ("algorithm", "expected", "actual")} == {
        "algorithm": "md5",
        "expected": "00",
        "actual": "11",
    }
    assert StorageError("no", errno=5).to_dict()["errno"] == 5


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [(OptionError, ValueError), (TransferTimeoutError, TimeoutError), (TargetExistsError, FileExistsError)],
)
def test_some_are_also_what_python_calls_them(cls: type[FastxferError], builtin: type[Exception]) -> None:
    assert issubclass(cls, builtin)
    assert str(cls("message")) == "message"


@pytest.mark.parametrize(
    "cls", [OptionError, InterruptedTransferError, RemoteChangedError, StorageError, DiskFullError]
)
def test_what_another_attempt_cannot_help_is_never_tried_again(cls: type[FastxferError]) -> None:
    assert make(cls).retry is Retry.NEVER


@pytest.mark.parametrize(
    ("number", "cls", "hint"),
    [
        (errno.ENOSPC, DiskFullError, "free some space"),
        (errno.EDQUOT, DiskFullError, "quota"),
        (errno.EACCES, StorageError, "permissions"),
        (errno.ENOENT, StorageError, "directory"),
        (errno.EFBIG, StorageError, "ulimit -f"),
        (errno.EIO, StorageError, "the disk, or the way to it, fails"),
        (errno.EROFS, StorageError, "have it mounted for writing"),
        (errno.ENOMEM, StorageError, "use sink=pwrite"),
    ],
)
def test_an_error_of_the_system_says_what_was_tried_and_what_helps(
    number: int, cls: type[StorageError], hint: str
) -> None:
    made = storage_error("write x.part", OSError(number, os.strerror(number)), kept="x.part")
    assert type(made) is cls
    assert (made.errno, made.kept) == (number, "x.part")
    assert str(made).startswith("cannot write x.part: ")
    assert hint in str(made)


def test_an_error_of_the_system_without_a_number_is_typed_too() -> None:
    made = storage_error("read x", OSError("odd"))
    assert (type(made), made.errno, str(made)) == (StorageError, None, "cannot read x: odd")


@pytest.mark.parametrize(
    "error",
    [
        errors.NetworkError("cut", kept="1 of 2"),
        errors.TransferTimeoutError("late"),
        errors.OverloadedError("busy", status=429, retry_after_s=2.0),
        errors.ChecksumError("wrong", algorithm="sha256", expected="a", actual="b"),
        errors.TargetExistsError("there"),
        errors.DiskFullError("full", errno=28),
    ],
)
def test_an_error_travels_between_processes(error: errors.FastxferError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.to_dict() == error.to_dict()
    assert str(copy) == str(error)
