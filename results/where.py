"""The filter of a table: comparisons of its columns, read as an expression and never run as code."""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype, is_string_dtype

from captune.errors import ArgumentError, one_line
from captune.results.columns import BYTES_OF, column

LONGEST = 1000  # characters
_WAY_OUT = "write e.g. \"fate == 'complete' and mean_f1 > 0.8\" or \"reason.startswith('halving')\""
# Texts stay as they are; a name in backticks is the name; & and | are `and` and `or`, as pandas has them.
_WORDS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`(?P<name>[^`]*)`|(?P<junction>[&|])")
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_TEXT_TESTS: dict[str, Callable[[str, str], bool]] = {
    "startswith": str.startswith,
    "endswith": str.endswith,
    "contains": operator.contains,
}


def selected(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows of a table for which an expression holds.

    Columns stand by their names, dotted ones too, with or without backticks, or as `captune.results.columns.column`
    has them; MiB is weights_bytes in that unit. There are numbers, texts, true and false
    (True, False); comparisons, `in [..]` and `not in [..]`; and, or, not; + - * / // % and **; of a column of texts
    .startswith(..), .endswith(..) and .contains(..), the last also as `'..' in column`; of any .isna() and .notna().

    Raises:
        ArgumentError: it is none such, or compares what has no order.
    """
    try:
        if len(where) > LONGEST:
            raise ValueError(f"longer than {LONGEST} characters")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about texts such as '\d'; of NumPy, about infinity
            expression = ast.parse(_WORDS.sub(_as_python, where).strip(), mode="eval").body
            return table[_Rows(table).truths(expression)]
    except SyntaxError as error:
        reason = error.msg
    except (RecursionError, MemoryError):
        reason = "too many parts inside each other"
    except ArithmeticError:
        reason = "its numbers are too large, or divided by zero"
    except (ValueError, TypeError) as error:
        reason = one_line(error, 200)
    raise ArgumentError("where", f"{one_line(repr(where), 200)} is no condition: {reason}; {_WAY_OUT}")


def _as_python(match: re.Match[str]) -> str:
    if match["junction"]:
        return " and " if match["junction"] == "&" else " or "
    return match[0] if match["name"] is None else f" {match['name']} "


def _is_of_numbers(value: Any) -> bool:
    return isinstance(value, pd.Series) and is_numeric_dtype(value) and not is_bool_dtype(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, pd.Series) and len(value) > 0 and is_string_dtype(value))


class _Rows:
    """Evaluates expressions over the rows of a table: a column of values, or one value for all rows."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table

    def truths(self, node: ast.expr) -> pd.Series[bool]:
        """Of each row."""
        value = self._value(node)
        if not isinstance(value, pd.Series) or value.dtype != "bool":
            raise ValueError(f"{one_line(ast.unparse(node), 60)} is neither true nor false for each trial")
        return value

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | str() as value):
                return value
            case ast.Constant(value=int() | float() as value):
                return float(value)  # whose powers end: 9**9**9 is told to be too large
            case ast.Name() | ast.Attribute():
                return self._column(node)
            case ast.BoolOp(op=op, values=values):
                junction = operator.and_ if isinstance(op, ast.And) else operator.or_
                return reduce(junction, map(self.truths, values))
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return ~self.truths(operand)
            case ast.UnaryOp(op=op, operand=operand):
                return -self._number(operand) if isinstance(op, ast.USub) else self._number(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self._number(left), self._number(right))
            case ast.Compare(left=left, ops=ops, comparators=others):
                return reduce(operator.and_, map(self._comparison, [left, *others], ops, others))
            case ast.Call(func=ast.Attribute(value=column, attr=test), args=arguments, keywords=[]):
                return self._test(column, test, arguments)
        raise ValueError(f"a filter knows no {one_line(ast.unparse(node), 60)}")

    def _column(self, node: ast.expr) -> pd.Series[Any]:
        name = ast.unparse(node)
        values = self._table[column(name, map(str, self._table))]
        return values / 2**20 if name in BYTES_OF else values

    def _number(self, node: ast.expr) -> Any:
        value = self._value(node)
        if _is_of_numbers(value) or isinstance(value, float):
            return value
        raise ValueError(f"{one_line(ast.unparse(node), 60)} is no number")

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pd.Series[bool]:
        if isinstance(op, ast.In | ast.NotIn):
            found = self._contained(left, right)
            return ~found if isinstance(op, ast.NotIn) else found
        if type(op) not in _COMPARISONS:
            raise ValueError("`is` compares no values; write ==")
        sides = self._value(left), self._value(right)
        if not any(isinstance(side, pd.Series) for side in sides):
            raise ValueError(f"{one_line(ast.unparse(left), 60)} is compared with no column")
        try:
            if any(map(_is_text, sides)) and any(isinstance(side, float) or _is_of_numbers(side) for side in sides):
                raise TypeError
            result: pd.Series[bool] = _COMPARISONS[type(op)](*sides)
        except TypeError:
            name = one_line(ast.unparse(left), 60)
            raise ValueError(f"{name} is compared with another kind; write numbers bare, texts in quotes") from None
        return result

    def _contained(self, left: ast.expr, right: ast.expr) -> pd.Series[bool]:
        match left, right:
            case _, ast.List(elts=elements) | ast.Tuple(elts=elements):
                return self._column(left).isin([self._constant(element) for element in elements])
            case ast.Constant(value=str()), _:
                return self._test(right, "contains", [left])
        raise ValueError("`in` takes a list of values, or a text and a column")

    def _constant(self, node: ast.expr) -> Any:
        value = self._value(node)
        if isinstance(value, pd.Series):
            raise ValueError(f"{one_line(ast.unparse(node), 60)} is a column, where a value is meant")
        return value

    def _test(self, column: ast.expr, test: str, arguments: Sequence[ast.expr]) -> pd.Series[bool]:
        if isinstance(column, ast.Attribute) and column.attr == "str":  # as pandas has it
            column = column.value
        match test, arguments:
            case "isna", []:
                return self._column(column).isna()
            case "notna", []:
                return self._column(column).notna()
            case "startswith" | "endswith" | "contains", [ast.Constant(value=str() as text)]:
                holds = _TEXT_TESTS[test]
                values = self._column(column)
                return values.map(lambda value: isinstance(value, str) and holds(value, text)).astype(bool)
        if test in _TEXT_TESTS:
            raise ValueError(f"{test} takes one text in quotes, as .{test}('halving')")
        raise ValueError(f"{one_line(test, 60)} is not startswith, endswith, contains, isna or notna")
