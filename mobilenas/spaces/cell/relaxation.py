"""Alphas and betas of the two cells, and relaxations made from them."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from mobilenas.core.settings import check_choice
from mobilenas.cost.budgets import Budgets
from mobilenas.spaces.cell.program import CellProgram
from mobilenas.spaces.cell.settings import EDGE_WEIGHTS
from mobilenas.spaces.cell.space import KINDS, LEFT_OUT, CellChoice, CellSpace
from mobilenas.spaces.cell.table import CellProbabilities

_COUNT_FACTOR = 0.2
_TINY = 1e-12


class CellAlphas(nn.Module):
    """A row of logits per edge of each cell, and a beta if edges have weights."""

    def __init__(self, space: CellSpace, *, none: bool, edge_weights: str) -> None:
        super().__init__()
        check_choice("edge weights", edge_weights, EDGE_WEIGHTS)
        self.space, self.none, self.edge_weights = space, none, edge_weights
        edges, columns = len(space.edge_ends), len(space.operations)
        self.operations = nn.ParameterDict()
        """[E, O] by kind of cell, or [E, O + 1] with `none` last."""
        self.betas = nn.ParameterDict()
        """[E] by kind of cell; empty if edges have no weights."""
        for kind in KINDS:
            self.operations[kind] = nn.Parameter(torch.zeros(edges, columns + none))
            if edge_weights != "none":
                self.betas[kind] = nn.Parameter(torch.zeros(edges))

    def soft(self, tau: float) -> CellProbabilities:
        """Return softmax(alpha / tau); the temperature applies to operations only."""
        operations = {kind: (self.operations[kind] / tau).softmax(-1) for kind in KINDS}
        edges = {kind: self._edges(kind) for kind in KINDS}
        kept = {kind: self._kept(operations[kind], edges[kind]) for kind in KINDS}
        return CellProbabilities(operations=operations, edges=edges, kept=kept)

    def gumbel(self, tau: float, generator: torch.Generator, *, hard: bool) -> CellProbabilities:
        """Draw operations by the Gumbel softmax (Jang et al. 2017); `hard`: one-hot in value.

        Edges are as in `soft`.
        """
        soft, operations = self.soft(tau), {}
        for kind in KINDS:
            logits = self.operations[kind]
            noise = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
            drawn = ((logits - (-noise.log()).log().to(logits)) / tau).softmax(-1)
            if hard:
                certain = torch.zeros_like(drawn).scatter(-1, drawn.argmax(-1, keepdim=True), 1.0)
                drawn = certain + (drawn - drawn.detach())  # the difference is 0, exactly
            operations[kind] = drawn
        return CellProbabilities(operations=operations, edges=soft.edges, kept=soft.kept)

    @torch.no_grad()
    def scores(self) -> dict[str, Tensor]:
        """Return log(edge weight x operation probability) by kind: float64 [E, O], without `none`.

        `none` still takes its share of the probabilities, as in DARTS.
        """
        columns, scores = len(self.space.operations), {}
        for kind in KINDS:
            log_p = self.operations[kind].double().log_softmax(-1)[:, :columns]
            scores[kind] = log_p + self._log_edges(kind).double()[:, None]
        return scores

    def entropy(self, tau: float) -> Tensor:
        """Return L_O of DA2S: entropy of operations in nats, summed over edges of both cells."""
        total = torch.zeros(())
        for kind in KINDS:
            log_p = (self.operations[kind] / tau).log_softmax(-1)
            total = total - (log_p.exp() * log_p).sum().cpu()
        return total

    def edge_entropy(self) -> Tensor:
        """Return L_E of DA2S, summed over the groups of both cells; 0 without edge weights.

        For a group with b = softmax(min(beta, 1)), of which k are kept, it is the entropy of b in
        nats, plus 0.2 (sum of max(0, min(beta, 1)) - k)^2.
        """
        total = torch.zeros(())
        for beta in self.betas.values():
            for group in self.space.groups():
                clipped = beta[group].clamp(max=1)
                log_b = clipped.log_softmax(0)
                # not relu, whose gradient is 0 at 0, where betas start: this term must raise them
                excess = clipped.clamp(min=0).sum() - self._count(group)
                loss = _COUNT_FACTOR * excess.square() - (log_b.exp() * log_b).sum()
                total = total + loss.cpu()
        return total

    @torch.no_grad()
    def one_hot(self, choice: CellChoice) -> CellProbabilities:
        """Return the relaxation with probability 1 for `choice`; kept edges share the weight."""
        operations, edges, kept = {}, {}, {}
        for kind in KINDS:
            alphas = self.operations[kind]
            picks = torch.tensor(choice.of(kind), device=alphas.device)
            is_kept = picks != LEFT_OUT
            kept[kind] = is_kept.to(alphas)
            columns = picks.clamp(min=0)[:, None]
            operations[kind] = torch.zeros_like(alphas).scatter(1, columns, kept[kind][:, None])
            edges[kind] = kept[kind]
            if self.edge_weights != "none":
                left = self._log_edges(kind).masked_fill(~is_kept, -torch.inf)
                shares = [left[group].softmax(0) for group in self.space.groups()]
                edges[kind] = torch.cat(shares)
        return CellProbabilities(operations=operations, edges=edges, kept=kept)

    @torch.no_grad()
    def operations_discrete(self, choice: CellChoice, tau: float) -> CellProbabilities:
        """Return the relaxation with one operation per edge, and edge weights as in `soft`.

        It is the operation of `choice` if the edge is kept, else the most probable one except
        `none`.
        """
        soft, operations = self.soft(tau), {}
        for kind in KINDS:
            alphas = self.operations[kind]
            likeliest = alphas[:, : len(self.space.operations)].argmax(-1)
            picks = torch.tensor(choice.of(kind), device=alphas.device)
            columns = torch.where(picks == LEFT_OUT, likeliest, picks)[:, None]
            operations[kind] = torch.zeros_like(alphas).scatter(1, columns, 1.0)
        return CellProbabilities(operations=operations, edges=soft.edges, kept=soft.kept)

    def stages(self, choice: CellChoice, tau: float) -> dict[str, CellProbabilities]:
        """Return `soft`, one operation per edge, and `one_hot`, with only the kept edges."""
        return {
            "supernet": self.soft(tau),
            "operations_discrete": self.operations_discrete(choice, tau),
            "edges_discrete": self.one_hot(choice),
        }

    def alone(self, net: nn.Module, choice: CellChoice) -> Callable[[Tensor], Tensor]:
        """Return a function that runs one network with the supernet's weights."""
        return partial(net, p=self.one_hot(choice))

    def distributions(self, p: CellProbabilities) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield kind, probabilities [edges, operations] and the number of operations of each."""
        for kind, rows in p.operations.items():
            yield kind, rows, rows.new_full(rows.shape[:1], rows.shape[1])

    def likeliest(self) -> CellChoice:
        """Return the most probable network, ignoring budgets."""
        return CellProgram(Budgets(self.space, ()), self.scores()).best()

    def table(self) -> dict[str, list[list[float]]]:
        """Return alphas by kind, a row per edge, and betas as one row by kind + `_edges`."""
        rows = {kind: self.operations[kind].tolist() for kind in KINDS}
        rows |= {f"{kind}_edges": [beta.tolist()] for kind, beta in self.betas.items()}
        return {name: [[round(v, 4) for v in row] for row in of] for name, of in rows.items()}

    def _count(self, group: list[int]) -> int:
        """Return the number of kept edges of a group."""
        return min(self.space.edges.kept, len(group))

    def _log_edges(self, kind: str) -> Tensor:
        """Return log edge weights [E], exact even where the weights underflow."""
        if self.edge_weights == "none":
            return torch.zeros_like(self.operations[kind][:, 0])
        beta: Tensor = self.betas[kind]
        if self.edge_weights == "clipped":
            beta = beta.clamp(max=1)
        return torch.cat([beta[group].log_softmax(0) for group in self.space.groups()])

    def _edges(self, kind: str) -> Tensor:
        """Return the weight of each edge in the sum of its node, [E]."""
        return self._log_edges(kind).exp()

    def _kept(self, operations: Tensor, edges: Tensor) -> Tensor:
        """Return the probability that an edge is kept, [E], from weight x best operation."""
        score = edges * operations[:, : len(self.space.operations)].amax(-1)
        groups = self.space.groups()
        return torch.cat([_capped(score[group], self._count(group)) for group in groups])


def _capped(score: Tensor, count: int) -> Tensor:
    """score: [n] -> q = min(1, c score) [n], with c such that q sums to `count`."""
    if count >= len(score):
        return torch.ones_like(score)
    score = score.clamp(min=_TINY)
    order = score.detach().argsort(descending=True)
    ordered = score.detach()[order]
    rest = ordered.flip(0).cumsum(0).flip(0)  # each with all after it
    left = count - torch.arange(len(score), device=score.device)
    # the first ones are 1: as few as possible with none of the others above 1
    certain = int((left * ordered <= rest).int().argmax())
    free = order[certain:]
    share = (count - certain) * score[free] / score[free].sum()
    return torch.ones_like(score).index_copy(0, free, share.clamp(max=1))
