"""Types of options, and commands that say where they come from."""

import math
import re
from pathlib import Path

import click

from wbcli.config.networks import check_arch
from wbcli.config.settings import ARCHS

MAX_ELEMENTS = 2**30  # of a weight


class Command(click.Command):
    """A command whose every option can come from WBCLI_COMMAND_OPTION or WBCLI_OPTION.

    A command inside a group is WBCLI_GROUP_COMMAND_OPTION.
    """

    def __init__(self, name: str, group: str = "", **kwargs):
        super().__init__(name, **kwargs)
        path = f"{group}_{name}".strip("_").replace("-", "_").upper()
        for param in self.params:
            if isinstance(param, click.Option):
                option = max(param.opts, key=len).strip("-").replace("-", "_").upper()
                special = [param.envvar] if param.envvar else []
                param.envvar = [f"WBCLI_{path}_{option}", *special, f"WBCLI_{option}"]


class RelativeThreshold(click.ParamType):
    name = "t|none"

    def convert(self, value, param, ctx):
        if value == "none":
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"expected a number in [0, 1] or 'none', got {value!r}", param, ctx)


class Count(click.IntRange):
    """An integer from `least` to `most`: more can only be a mistake, and would fill the memory."""

    def __init__(self, least: int, most: int = 10**5):
        super().__init__(least)
        self.most = most

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if number > self.most:
            self.fail(f"expected at most {self.most}, got {number}", param, ctx)
        return number


class FiniteRange(click.FloatRange):
    """Numbers of a range; neither nan, which no comparison refuses, nor inf."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {number}", param, ctx)
        return number


class Arch(click.ParamType):
    """A network of ours, or one of a library: whether that has it is seen when settings resolve."""

    name = "arch"

    def get_metavar(self, param, ctx):
        return f"[{'|'.join(ARCHS)}|torchvision:NAME|timm:NAME]"

    def convert(self, value, param, ctx):
        try:
            check_arch(value, ARCHS)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value


class NamedPath(click.Path):
    """A path that has a name: '' comes from a shell variable that is not set."""

    def __init__(self):
        super().__init__(path_type=Path)

    def convert(self, value, param, ctx):
        if value == "":
            self.fail("expected the name of a file or folder, got ''", param, ctx)
        return super().convert(value, param, ctx)


class Shape(click.ParamType):
    name = "KxD"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9})[x×](\d{1,9})", value)
        if not match or not all(int(size) > 0 for size in match.groups()):
            self.fail(f"expected rows x columns, such as 8142x2048, got {value!r}", param, ctx)
        shape = int(match[1]), int(match[2])
        if shape[0] * shape[1] > MAX_ELEMENTS:
            self.fail(f"expected at most {MAX_ELEMENTS} elements, got {value!r}", param, ctx)
        return shape
