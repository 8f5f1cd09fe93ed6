"""The header-only check of whether parents fit (mergekit-darwin-ratios)."""

from mergekit_darwin.merge.fit.facts import Finding, Header, Layout, Model, Run
from mergekit_darwin.merge.fit.names import renamed_prefix
from mergekit_darwin.merge.fit.rules import check_fit, is_tied

__all__ = [
    "Finding",
    "Header",
    "Layout",
    "Model",
    "Run",
    "check_fit",
    "is_tied",
    "renamed_prefix",
]
