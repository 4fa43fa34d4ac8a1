"""Arguments and results of jobs as typed JSON: what a store keeps, and never a pickle.

`Signature.of(function)` compiles one coder for each annotation when it is first needed; see
`offload._typed_json`. One call has one text: defaults are left out.
"""

from offload.jobs._codec.signature import Signature

__all__ = ["Signature"]
