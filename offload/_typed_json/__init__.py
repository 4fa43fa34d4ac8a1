"""Values as JSON by the annotation that says what they are, and never as pickles.

`Compiler().coder(annotation, scope)` makes a coder of an annotation. It turns a value into JSON and
back; both directions check the type.

Guarantees:

1. What is accepted comes back equal and of the same type. Everything else is refused when it is
   encoded, by parameter and path; nothing is coerced.
2. The JSON depends on the value and its annotation alone, not on what is installed, and one value
   has one text (sets are sorted).
3. Decoding builds the annotated types only. No name from the data is imported or looked up in a
   module, and hostile data end in an error of ours.

What JSON stands for each type (`kinds` in the code are JSON's own types):

| annotation | JSON |
|---|---|
| None, bool, str | itself; lone surrogates as escapes |
| int | number of any size up to 4,300 digits: exact here, rounded by JavaScript beyond 2**53 |
| float | number; "NaN", "Infinity", "-Infinity" (not in untyped data, nor in a union with str) |
| bytes, bytearray | base64 |
| datetime, date, time | RFC 3339, zones as in RFC 9557: `2026-11-30T09:00:00-03:00[America/Lima]` |
| timedelta | ISO 8601 duration: `P1DT2H` |
| UUID, Decimal, Path | text |
| Enum, Literal | the value |
| list, tuple, deque, NamedTuple | array |
| set, frozenset | sorted array |
| dict | object; array of pairs where keys are neither text nor int |
| dataclass, TypedDict | object by field |
| pydantic model, msgspec Struct, other types known to pydantic | as the library writes it |
| union | the member as it is; `{"type": …, "value": …}` where JSON cannot tell members apart |
| Any, object, no annotation | plain JSON, with str keys |

An int is accepted where float is annotated, and a bool where int or float is, as type checkers do
and a direct call does: it comes back as it was. Sequence, Iterable, Mapping and the like stand for
list, dict and set. A NaN's sign, the identity of shared objects, and which fields of a pydantic
model were set are not kept. What `Annotated` says beyond the type is not checked.
"""
