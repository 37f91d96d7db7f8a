"""What an algorithm says of itself in lists, so that each list is made from the algorithms."""

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """An algorithm in a few words; `offline-rl algos`, the README and the site list them.

    Attributes:
        method: What it does, in one phrase.
        use_when: When to choose it, as the end of a sentence that begins with "use it".
        needs: What it learns from, besides observations and actions.
        paper: Authors, year and arXiv number: ``"Fujimoto & Gu 2021, arXiv 2106.06860"``; ``""`` for none.
    """

    method: str
    use_when: str
    needs: str = "rewards"
    paper: str = ""

    @property
    def reference(self) -> str:
        """The paper as a link in Markdown; ``""`` for none."""
        authors, _, number = self.paper.partition(", arXiv ")
        return f"[{authors}](https://arxiv.org/abs/{number})" if number else authors
