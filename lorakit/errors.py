"""The tree of lorakit's errors: each says what happened, why, and what to do, and owns an exit code.

LorakitError (1)
├── UsageError (2)            a command line or API call that cannot be meant
├── WorkspaceError (3)        no workspace, or one that cannot be read or written
├── PresetError (4)           a preset that cannot be read, with every problem found in it
├── RuleError (5)             a preset whose values contradict each other or the trainer
├── DatasetError (6)          images or captions that cannot be trained on
├── ModelFileError (7)        a base model, VAE or LoRA file that is missing, torn or not what it should be
├── TrainerError (8)          no usable trainer, or one that refuses its arguments
├── ArchiveError (9)          a run that is missing, ambiguous, damaged, or cannot be written
├── RunFailed (10)            the training started and did not succeed
├── DiskError (11)            no space, no permission, or a failing disk
└── Stopped (130)             the user asked for it
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ArchiveError",
    "DatasetError",
    "DiskError",
    "LorakitError",
    "ModelFileError",
    "PresetError",
    "Problem",
    "RuleError",
    "RunFailed",
    "Stopped",
    "TrainerError",
    "UsageError",
    "WorkspaceError",
]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, why and what to do.

    ``where`` is ``file:line`` or empty; ``key`` is the dotted key path or empty; ``code`` is ``LKnnn`` or empty.
    """

    what: str
    why: str = ""
    todo: str = ""
    key: str = ""
    where: str = ""
    code: str = ""


class LorakitError(Exception):
    """Base of every error meant for the reader; ``problems`` lists details when there are several."""

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", todo: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.todo = todo
        self.problems = problems
        # A traceback of the Python API shows these too; the command line prints them in its own way.
        for note in (why, todo, *(f"{problem.key}: {problem.what} {problem.todo}".strip(": ") for problem in problems)):
            if note:
                self.add_note(note)


class UsageError(LorakitError):
    """A command line or API call that cannot be meant."""

    exit_code = 2


class WorkspaceError(LorakitError):
    """There is no workspace, or it cannot be read or written."""

    exit_code = 3


class PresetError(LorakitError):
    """A preset cannot be read; ``problems`` holds everything found in it."""

    exit_code = 4


class RuleError(LorakitError):
    """Values of a preset contradict each other or the trainer; ``problems`` holds the findings."""

    exit_code = 5


class DatasetError(LorakitError):
    """Images or captions cannot be trained on."""

    exit_code = 6


class ModelFileError(LorakitError):
    """A base model, VAE or LoRA file is missing, torn, or not what it should be."""

    exit_code = 7


class TrainerError(LorakitError):
    """No usable trainer, or one that refuses its arguments."""

    exit_code = 8


class ArchiveError(LorakitError):
    """A run is missing, ambiguous or damaged, or cannot be written."""

    exit_code = 9


class RunFailed(LorakitError):
    """The training started and did not succeed."""

    exit_code = 10


class DiskError(LorakitError):
    """No space, no permission, or a failing disk."""

    exit_code = 11


class Stopped(LorakitError):
    """The user asked for it."""

    exit_code = 130
