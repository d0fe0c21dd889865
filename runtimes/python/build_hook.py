"""Puts the shim into the wheel of `nuclio-handler`: all its parts, as they are."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShimHook(BuildHookInterface):  # type: ignore[type-arg, unused-ignore]
    def initialize(self, version: str, build_data: "dict[str, Any]") -> None:
        if version == "editable":
            return  # It lies beside the package.
        for file in Path(self.root).glob("_nuclio_*.py"):
            build_data["force_include"][str(file)] = "nuclio_handler/_carried/%s" % file.name
