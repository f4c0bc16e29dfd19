"""The metrics of a mixed-quality benchmark, counted once per sample on any number of processes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from stvg_nst.evaluation.bootstrap import shared_clips
from stvg_nst.metrics.functional import tube_iou
from stvg_nst.results.metric_names import MetricName
from stvg_nst.results.was import require_metrics, with_adaptation_scores
from stvg_nst.types import SENTENCE_TYPES, ClipInfo, Quality, Tube

DUPLICATE_TOLERANCE = 1e-6
"""Two results of one sample may differ by this much, in units of IoU, before they contradict each other."""


@dataclass(frozen=True, slots=True)
class SampleResult:
    """How well one sample was grounded. ``tIoU`` and ``vIoU`` lie in [0, 1]; the predicted span is half-open.

    ``video`` is the file that it was cut from. ``verdict``, in [0, 1], is how low the tuner's router holds its quality
    to be, ``None`` where there is no router.
    """

    item_id: str
    video: str
    quality: str
    sentence_type: str
    degradation: str | None
    tIoU: float
    vIoU: float
    pred_start: int
    pred_stop: int
    verdict: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The item, and the condition it was shown in: HQ or a degradation."""
        return self.item_id, self.degradation or self.quality


class GroundingMetrics(Metric):
    """m_tIoU, m_vIoU and vIoU@R for each quality and sentence type, and the WAS, in percent points.

    A distributed sampler repeats samples to even out its shards; here a sample, an item in one condition, counts once.

    Args:
        thresholds: the R of vIoU@R, the share of samples whose vIoU exceeds R.
        baseline: the zero-shot model's ``compute()``, as numbers; adds the ``WAS/`` metrics.

    Raises:
        ValueError: a threshold outside [0, 1), or a baseline without the HQ and LQ metrics of these thresholds.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    records: list[Tensor] | Tensor

    def __init__(
        self,
        *,
        thresholds: Sequence[float] = (0.3, 0.5),
        baseline: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(dist_sync_fn=_gather_bytes)
        outside = [threshold for threshold in thresholds if not 0 <= threshold < 1]
        if outside:
            raise ValueError(f"the thresholds of vIoU@R must lie in [0, 1), got {outside}")
        self.thresholds = {f"vIoU@{threshold:g}": threshold for threshold in thresholds}
        self.baseline = baseline
        if baseline is not None:  # fail before an evaluation of hours, not after it
            names = ("m_tIoU", "m_vIoU", *self.thresholds)
            require_metrics(baseline, (str(MetricName(quality.name, name)) for quality in Quality for name in names))
        # torchmetrics synchronises tensors alone, and item ids are strings: the state is the ASCII text of the results,
        # a line of JSON each, in which float64 survives exactly.
        self.add_state("records", default=[], dist_reduce_fx="cat")

    def update(self, preds: Sequence[Tube], clips: Sequence[ClipInfo], verdicts: Sequence[float] | None = None) -> None:
        """Scores a batch.

        Args:
            preds: B predicted tubes.
            clips: B clips; target, quality, sentence type and item id come from here.
            verdicts: B of a router on the clips' quality; they count in no metric, and stand in the samples.

        Raises:
            ValueError: not one tube per clip, or a tube whose boxes are not finite.
        """
        if len(preds) != len(clips):
            raise ValueError(f"expected one predicted tube per clip, got {len(preds)} tubes and {len(clips)} clips")
        said = [None] * len(clips) if verdicts is None else verdicts
        results = [_score(*sample) for sample in zip(preds, clips, said, strict=True)]
        text = "".join(json.dumps(asdict(result)) + "\n" for result in results)
        assert isinstance(self.records, list)  # a tensor only while synchronised, when torchmetrics refuses updates
        self.records.append(torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Every metric, named ``<view>/<metric>`` or ``<view>/<sentence type>/<metric>``.

        Views are HQ, LQ, MQ (both, 1 : 1 however many degradations an item is shown in) and, with a baseline, WAS. A
        view without samples is left out.

        Returns:
            Scalars in percent points, in [0, 100] but for the WAS.

        Raises:
            ValueError: one sample has two different results, or the baseline lacks a sentence type.
        """
        results = self._unique_results()
        metrics: dict[str, float] = {}
        for view, qualities in (("HQ", {"HQ"}), ("LQ", {"LQ"}), ("MQ", {"HQ", "LQ"})):
            members = [result for result in results if result.quality in qualities]
            metrics |= self._view(view, members)
            for kind in SENTENCE_TYPES:
                metrics |= self._view(view, [member for member in members if member.sentence_type == kind], kind)
        if self.baseline is not None:
            metrics = with_adaptation_scores(metrics, self.baseline)
        return {name: torch.tensor(value, device=self.device) for name, value in metrics.items()}

    def samples(self) -> list[dict[str, Any]]:
        """The result of each sample on any rank, once, by item id and condition; call it on every rank.

        Returns:
            Per sample: item_id, quality ("HQ" or "LQ"), sentence_type, degradation ("kind:severity" or None), tIoU and
            vIoU in [0, 1], pred_start and pred_stop (half-open, native frames), and verdict; and where the item's name
            does not say it, the clip, which is the same for all sentences about a video.

        Raises:
            ValueError: one sample has two different results.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            results = self._unique_results()
        clips = shared_clips({result.item_id: result.video for result in results})
        samples = []
        for result in results:
            sample = asdict(result)
            del sample["video"]  # a path of this machine
            samples.append(sample | ({"clip": clips[result.item_id]} if result.item_id in clips else {}))
        return samples

    def _view(self, view: str, results: Sequence[SampleResult], sentence_type: str | None = None) -> dict[str, float]:
        if not results:
            return {}
        points = 100 / len(results)
        counts = Counter(result.quality for result in results)
        # 1 where all samples are of one quality, or as many of each.
        weights = [len(results) / (len(counts) * counts[result.quality]) for result in results]

        def mean(scores: Iterable[float]) -> float:
            return points * math.fsum(weight * score for weight, score in zip(weights, scores, strict=True))

        metrics = {
            "m_tIoU": mean(result.tIoU for result in results),
            "m_vIoU": mean(result.vIoU for result in results),
        }
        for name, threshold in self.thresholds.items():
            metrics[name] = mean(float(result.vIoU > threshold) for result in results)
        return {str(MetricName(view, name, sentence_type)): value for name, value in metrics.items()}

    def _unique_results(self) -> list[SampleResult]:
        # An empty list is what torchmetrics leaves where no rank was updated.
        text = bytes(dim_zero_cat(self.records).tolist()).decode() if len(self.records) else ""
        return _deduplicate(SampleResult(**json.loads(line)) for line in text.splitlines())


def _score(pred: Tube, clip: ClipInfo, verdict: float | None) -> SampleResult:
    t_iou, v_iou = tube_iou(pred, clip.target)
    if not pred.boxes.isfinite().all():
        raise ValueError(f"the predicted boxes of clip '{clip.item_id}' are not finite; has the training diverged?")
    return SampleResult(
        item_id=clip.item_id,
        video=clip.video,
        quality=clip.quality.name,
        sentence_type=clip.sentence_type,
        degradation=None if clip.degradation is None else str(clip.degradation),
        tIoU=t_iou,
        vIoU=v_iou,
        pred_start=pred.start,
        pred_stop=pred.stop,
        verdict=verdict,
    )


def _deduplicate(results: Iterable[SampleResult]) -> list[SampleResult]:
    unique: dict[tuple[str, str], SampleResult] = {}
    for result in results:
        kept = unique.setdefault(result.key, result)
        if max(abs(kept.tIoU - result.tIoU), abs(kept.vIoU - result.vIoU)) > DUPLICATE_TOLERANCE:
            raise ValueError(
                f"sample '{result.item_id}' ({result.key[1]}) was scored twice and differently: "
                f"tIoU {kept.tIoU:.6f} and {result.tIoU:.6f}, vIoU {kept.vIoU:.6f} and {result.vIoU:.6f}; "
                "give every sample its own item_id, and reset the metric between evaluations"
            )
    return [unique[key] for key in sorted(unique)]


def _gather_bytes(state: Tensor, group: Any = None) -> list[Tensor]:
    # For a rank without samples torchmetrics sends an empty float tensor, and a gather of mixed types fails.
    return gather_all_tensors(state.to(torch.uint8), group)
