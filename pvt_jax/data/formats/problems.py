"""Problems of a data set, collected by kind: a message counts those of one kind and names the first."""

from dataclasses import dataclass, field

from pvt_jax.errors import UserError
from pvt_jax.messages import escaped


@dataclass
class Problems:
    """Kinds of problems in ``where``, a file or folder: (what, way out) → [how many, the first]."""

    where: str
    found: dict[tuple[str, str], list] = field(default_factory=dict)

    def add(self, what: str, way_out: str, which: str) -> None:
        """Counts one more of a kind, such as "images have no name"; ``which`` is what a person needs to find it."""
        self.found.setdefault((what, way_out), [0, which])[0] += 1

    def check(self) -> None:
        """Raises UserError for the first kind, if any."""
        for (what, way_out), (count, first) in self.found.items():
            others = len(self.found) - 1
            more = f" ({others} other kind{'s' * (others != 1)} of problems)" * bool(others)
            raise UserError(escaped(f"{self.where}: {count:,} {what}, the first is {first}: {way_out}{more}"))
