"""Where a controller's large values are kept, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from dispatcher.log import Guarded
from mirai._errors import StoreError
from mirai.controllers._refs import THRESHOLD, Depot
from mirai.controllers._store import Store

logger = Guarded("mirai")


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is said about a controller's store."""

    store: Store
    threshold: int = THRESHOLD
    is_kept: bool = False
    """Whether it outlives the run."""

    def depot(self, run: str) -> Depot:
        """Return the place of a run."""
        return Depot(self.store.below(run), self.threshold)

    def end(self, depot: Depot) -> None:
        """A run is over."""
        if self.is_kept:
            return
        try:
            depot.destroy()
        except StoreError as error:
            logger.warning("the store of a run could not be removed: %s", error)
