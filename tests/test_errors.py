"""One small tree: whoever catches OneRecError catches every mistake of a user."""

import pytest

from onerec import errors
from onerec.errors import DataError, OneRecError, RecipeError, RunError, first_line


@pytest.mark.parametrize("kind", [DataError, RecipeError, RunError])
def test_every_kind_is_a_onerec_error_and_no_python_error(kind: type[OneRecError]) -> None:
    assert issubclass(kind, OneRecError)
    assert not issubclass(kind, ValueError | OSError | LookupError)
    assert str(kind("row 3: no time")) == "row 3: no time"


def test_of_an_error_of_others_the_first_line_is_told() -> None:
    assert first_line(ValueError("\n no such model \nand much more")) == "no such model"
    assert first_line(OSError()) == "OSError"


def test_no_kind_contains_another() -> None:
    kinds = [v for v in vars(errors).values() if isinstance(v, type)]
    assert set(kinds) == {OneRecError, DataError, RecipeError, RunError}
    assert all(kind.__base__ in (OneRecError, Exception) for kind in kinds)
