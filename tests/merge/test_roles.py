"""Who is who: Father first, Mother second, and the base."""

from __future__ import annotations

import pytest

from mergekit_darwin.errors import DarwinError
from mergekit_darwin.merge.roles import Roles, roles_of


@pytest.mark.parametrize(
    ("models", "base", "expected"),
    [
        (["f", "m"], None, Roles(None, "f", "m")),
        (["f", "m"], "f", Roles("f", "f", "m")),
        (["f", "m", "b"], "b", Roles("b", "f", "m")),
        (["b", "f", "m"], "b", Roles("b", "f", "m")),
        ([0, 1, 2], 2, Roles(2, 0, 1)),
    ],
)
def test_roles_follow_the_order_of_the_yaml(models, base, expected):
    assert roles_of(models, base) == expected


@pytest.mark.parametrize(
    ("models", "base", "words"),
    [
        (["f", "m"], "m", "got the second, m, beside f"),
        (["f"], None, "exactly two parents"),
        (["f", "f"], None, "different ones"),
        (["f", "m", "x"], None, "exactly two parents"),
        (["f", "b"], "x", "exactly|Roles"),
        ([], None, "got none"),
    ],
)
def test_unclear_roles_are_refused(models, base, words):
    if words == "exactly|Roles":  # a base that was not appended is still a base
        assert roles_of(models, base).third == "x"
        return
    with pytest.raises(DarwinError, match=words):
        roles_of(models, base)


def test_only_a_model_of_its_own_is_a_third():
    assert Roles("b", "f", "m").third == "b"
    assert Roles("f", "f", "m").third is None
    assert Roles(None, "f", "m").third is None
    assert list(Roles("b", "f", "m").named().values()) == ["f", "m", "b"]
    assert "base" not in Roles("f", "f", "m").named()
