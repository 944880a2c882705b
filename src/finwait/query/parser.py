"""The filter language: ss's whole grammar with ss's rank, and finwait's columns in the same language.

    [state X | exclude X]... EXPR

``|``, ``&`` and two terms side by side have equal rank and go from left to right, ``!`` takes the next term only: so does
ss (misc/ssfilter.y; measured on 6.1). Parentheses for all else.
"""

from __future__ import annotations

from finwait.errors import Phrase, UsageError
from finwait.query.expression import (
    AutoboundTest,
    CgroupTest,
    ColumnComparison,
    Comparison,
    DeviceTest,
    Filter,
    HostTest,
    MarkTest,
    Node,
)  # fmt: skip
from finwait.query.hosts import parse_host, parse_integer, parse_port
from finwait.query.words import (
    AND_WORDS,
    NOT_WORDS,
    OPERATOR_BY_WORD,
    OR_WORDS,
    STATE_WORDS,
    TEST_WORDS,
    Word,
    excerpt_around,
    split_words,
)  # fmt: skip
from finwait.table.columns import (
    ADDRESS,
    BOOL,
    COLUMN_BY_NAME,
    ENDPOINT,
    FAMILY,
    NUMBER,
    PORT,
    STATE,
    TEXT,
    TIMER,
    TIMER_NAMES,
    Column,
    fold_name,
    parse_timer,
)  # fmt: skip
from finwait.tcp.state import ALL_STATES, TcpState, is_state_word, nearest_state, parse_states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    PortOfService = Callable[[str], int | None]

MAX_DEPTH = 100  # of parentheses, `!`, and changes between `and` and `or`: each nests the tree one deeper
MAX_INDEX_DIGITS = 10  # of an interface index, which is an int
_EQUALITY = ("=", "!=")
_ORDER = ("=", "!=", "<", "<=", ">", ">=")
_VALUE_BY_WORD = {
    BOOL: {"yes": 1, "no": 0, "true": 1, "false": 0, "1": 1, "0": 0},
    FAMILY: {"inet": 2, "inet6": 10, "2": 2, "10": 10},
}


def parse_filter(arguments: str | Sequence[str], port_of_service: PortOfService | None = None) -> Filter:
    """The filter that `arguments` (one text, or words as a shell gives them) spell.

    port_of_service: looks a service name up; without it only numbers are ports. Raises UsageError that points at the
    place and names the nearest right word.
    """
    text, words = split_words([arguments] if isinstance(arguments, str) else arguments)
    return _FilterParser(text, words, port_of_service or (lambda _: None)).parse()


class _FilterParser:
    def __init__(self, text: str, words: list[Word], port_of_service: PortOfService) -> None:
        self.text = text
        self.words = words
        self.next = 0
        self.depth = 0
        self.family: int | None = None
        self.port_of_service = port_of_service

    def parse(self) -> Filter:
        states = self._parse_state_clauses()
        expression = self._parse_list() if self.next < len(self.words) else None
        if self.next < len(self.words):
            raise self._wrong(Phrase("unmatched ')'"), self.words[self.next])
        return Filter(states, expression, self.family, self.text)

    # -- words

    def _peek(self) -> Word | None:
        return self.words[self.next] if self.next < len(self.words) else None

    def _take(self, expected: Phrase) -> Word:
        word = self._peek()
        if word is None:
            raise UsageError(
                "the filter ends where {expected} should follow: {text}",
                expected=expected,
                text=excerpt_around(self.text, len(self.text)),
            )
        self.next += 1
        return word

    def _wrong(self, problem: Phrase | UsageError, word: Word, nearest: str | None = None) -> UsageError:
        arguments = {"problem": problem, "place": word.at + 1, "text": excerpt_around(self.text, word.at)}
        if nearest is None:
            return UsageError("{problem} at character {place} of the filter: {text}", **arguments)
        return UsageError(
            "{problem} at character {place} of the filter: {text}; did you mean {nearest}?",
            nearest=nearest,
            **arguments,
        )

    # -- state X, exclude X

    def _parse_state_clauses(self) -> frozenset[TcpState]:
        states: frozenset[TcpState] | None = None
        while (word := self._peek()) is not None and word.is_one_of(STATE_WORDS):
            following = self.words[self.next + 1] if self.next + 1 < len(self.words) else None
            if following is not None and following.is_one_of(OPERATOR_BY_WORD):
                break  # `state = X` is a comparison
            self.next += 1
            named = self._parse_state_word(self._take(Phrase("a state")))
            if word.text == "state":
                states = (states or frozenset()) | named
            else:
                states = (ALL_STATES if states is None else states) - named
        if states is not None and not states:
            raise UsageError("'state' and 'exclude' leave no state: {text}", text=excerpt_around(self.text, 0))
        return ALL_STATES if states is None else states

    def _parse_state_word(self, word: Word) -> frozenset[TcpState]:
        if not is_state_word(word.text):
            raise self._wrong(Phrase("unknown TCP state '{word}'", word=word.text), word, nearest_state(word.text))
        return parse_states(word.text)

    # -- EXPR

    def _parse_list(self) -> Node:
        """Terms of equal rank. A run of one kind becomes one node, so that a long list costs its length only."""
        run, kind = [self._parse_term()], "and"
        while (word := self._peek()) is not None and not word.is_one_of((")",)):
            joint = "or" if word.is_one_of(OR_WORDS) else "and"
            if word.is_one_of(OR_WORDS) or word.is_one_of(AND_WORDS):
                self.next += 1
            if joint != kind and len(run) > 1:
                run = [Node(kind, *run)]
                if run[0].depth >= MAX_DEPTH:
                    raise self._wrong(Phrase("nested more than {depth} deep", depth=MAX_DEPTH), word)
            kind = joint
            run.append(self._parse_term())
        return Node(kind, *run) if len(run) > 1 else run[0]

    def _parse_term(self) -> Node:
        word = self._take(Phrase("a condition"))
        if word.is_one_of(NOT_WORDS):
            self._descend(word)
            node = Node("not", self._parse_term())
            self.depth -= 1
            return node
        if word.is_one_of(("(",)):
            self._descend(word)
            node = self._parse_list()
            closing = self._peek()
            if closing is None:
                raise self._wrong(Phrase("the parenthesis is never closed"), word)
            self.next += 1
            self.depth -= 1
            return node
        return self._parse_test(word)

    def _descend(self, word: Word) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._wrong(Phrase("nested more than {depth} deep", depth=MAX_DEPTH), word)

    def _parse_test(self, word: Word) -> Node:
        if word.is_one_of(("autobound",)):
            return AutoboundTest()
        if word.is_one_of(("src", "dst")):
            return self._parse_host_test("local" if word.text == "src" else "peer")
        if word.is_one_of(("sport", "dport")):
            return self._parse_port_test("local" if word.text == "sport" else "peer")
        if word.is_one_of(("dev", "fwmark", "cgroup")):
            return self._parse_special(word)
        column = None if word.quoted else COLUMN_BY_NAME.get(fold_name(word.text))
        if column is None:
            raise self._unknown_word(word)
        return self._parse_comparison(column)

    def _unknown_word(self, word: Word) -> UsageError:
        if not word.quoted and is_state_word(word.text):
            return self._wrong(Phrase("'{word}' stands alone", word=word.text), word, f"state {word.text}")
        if word.is_one_of(AND_WORDS | OR_WORDS) or word.is_one_of(OPERATOR_BY_WORD) or word.is_one_of((")",)):
            return self._wrong(
                Phrase("'{word}' where {expected} should stand", word=word.text, expected=Phrase("a condition")), word
            )
        from difflib import get_close_matches

        known = (*TEST_WORDS, *STATE_WORDS, *COLUMN_BY_NAME, "and", "or", "not")
        near = get_close_matches(fold_name(word.text), known, n=1, cutoff=0.5)
        nearest = near[0] if near else _test_for(word.text)
        return self._wrong(Phrase("unknown word '{word}'", word=word.text), word, nearest)

    def _operator(self, allowed: tuple[str, ...]) -> str:
        word = self._peek()
        if word is None or not word.is_one_of(OPERATOR_BY_WORD):
            return "="
        self.next += 1
        operator = OPERATOR_BY_WORD[word.text]
        if operator not in allowed:
            raise self._wrong(
                Phrase("'{word}' cannot be used here, only {allowed}", word=word.text, allowed=" ".join(allowed)), word
            )
        return operator

    def _value(self, expected: Phrase) -> Word:
        word = self._take(expected)
        if word.is_one_of(("(", ")")) or word.is_one_of(OPERATOR_BY_WORD) or word.is_one_of(AND_WORDS | OR_WORDS):
            raise self._wrong(Phrase("'{word}' where {expected} should stand", word=word.text, expected=expected), word)
        return word

    def _parse_host_test(self, side: str) -> Node:
        operator = self._operator(_EQUALITY)
        word = self._value(Phrase("an address"))
        try:
            test = parse_host(side, word.text, self.port_of_service)
        except UsageError as error:
            raise self._wrong(error, word) from None
        if test.family is not None:
            self.family = test.family  # the last one wins, as in ss
        return test if operator == "=" else Node("not", test)

    def _parse_port_test(self, side: str) -> Node:
        operator = self._operator(_ORDER)
        word = self._value(Phrase("a port"))
        host, _, port_word = word.text.rpartition(":")
        try:
            if host not in {"", "*"} and operator in _EQUALITY:  # [HOST]:PORT
                test: Node = parse_host(side, word.text, self.port_of_service)
            else:
                port = parse_port(port_word if host in {"", "*"} else word.text, self.port_of_service)
                test = HostTest(side, None, 0, port)
        except UsageError as error:
            raise self._wrong(error, word) from None
        if operator in _EQUALITY:
            return test if operator == "=" else Node("not", test)
        if port is None:
            raise self._wrong(
                Phrase("'{word}' where {expected} should stand", word=word.text, expected=Phrase("a number")), word
            )
        return Comparison(f"{side}_port", operator, port)

    def _parse_special(self, word: Word) -> Node:
        operator = self._operator(_EQUALITY)
        value = self._value(Phrase("a value"))
        if word.text == "dev":
            test: Node = self._parse_device(value)
        elif word.text == "cgroup":
            test = CgroupTest(value.text)
        else:
            test = self._parse_mark(value)
        return test if operator == "=" else Node("not", test)

    def _parse_device(self, word: Word) -> Node:
        if word.text.isascii() and word.text.isdigit() and len(word.text) > MAX_INDEX_DIGITS:
            raise self._wrong(
                Phrase("'{word}' is no device: a number of one has ten digits at most", word=word.text), word
            )
        return DeviceTest(word.text)

    def _parse_mark(self, word: Word) -> Node:
        value_word, slash, mask_word = word.text.partition("/")
        value = parse_integer(value_word)
        mask = parse_integer(mask_word) if slash else 0xFFFFFFFF
        if value is None or mask is None or max(value, mask) > 0xFFFFFFFF:
            raise self._wrong(Phrase("a mark is MARK or MARK/MASK, not '{word}'", word=word.text), word)
        return MarkTest(value, mask)

    # -- COLUMN OP VALUE

    def _parse_comparison(self, column: Column) -> Node:
        if column.kind in {ADDRESS, ENDPOINT}:
            return self._parse_host_test(column.name.partition("_")[0])
        if column.kind == PORT:
            return self._parse_port_test(column.name.partition("_")[0])
        if column.kind == STATE:
            operator = self._operator(_EQUALITY)
            states = self._parse_state_word(self._value(Phrase("a state")))
            return Comparison("state", operator, frozenset(int(state) for state in states))
        operator = self._operator(_EQUALITY if column.kind in {TEXT, BOOL, FAMILY, TIMER} else _ORDER)
        word = self._value(Phrase("a value"))
        other = None if word.quoted else COLUMN_BY_NAME.get(fold_name(word.text))
        if column.kind == NUMBER and other is not None and other.kind == NUMBER:
            return ColumnComparison(column.name, operator, other.name)
        return Comparison(column.name, operator, self._column_value(column, word))

    def _column_value(self, column: Column, word: Word) -> int | str:
        if column.kind == TEXT:
            return word.text
        expected: object = Phrase("a whole number")
        if column.unit is not None:
            expected = Phrase("a whole number of {unit}", unit=column.unit)
        if column.kind == TIMER:
            known, expected = parse_timer(word.text), " ".join(TIMER_NAMES)
        elif column.kind in _VALUE_BY_WORD:
            values = _VALUE_BY_WORD[column.kind]
            known, expected = values.get(word.text.lower()), " ".join(values)
        else:
            known = parse_integer(word.text)
        if known is None:
            raise self._wrong(
                Phrase(
                    "{column} is compared with {expected}, not with '{word}'",
                    column=column.name,
                    expected=expected,
                    word=word.text,
                ),
                word,
            )
        return known


def _test_for(word: str) -> str | None:
    """A test that a bare port or address may have been meant for; None for a word that is neither."""
    port = word.removeprefix(":")
    if port.isascii() and port.isdigit():
        return f"sport = :{port}"
    return f"dst {word}" if word.count(".") == 3 or word.count(":") > 1 else None
