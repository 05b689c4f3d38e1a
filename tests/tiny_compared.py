"""What methods of merging are compared on, from a tiny task file: a workbench, tasks and batches of test images."""

from __future__ import annotations

import torch

from mingle_edge.comparison.batches import TestBatch
from mingle_edge.comparison.method import Workbench
from mingle_edge.comparison.registry import SPECS
from mingle_edge.core.progress import silent
from mingle_edge.data.labeled_images import read_labeled
from mingle_edge.data.task_file import read_task_file
from mingle_edge.evaluation.answers import measure
from mingle_edge.evaluation.metrics import average_accuracy, backward_transfer
from mingle_edge.evaluation.protocols import PROTOCOLS
from mingle_edge.merging.merge_inputs import read_merge_inputs


class TinyComparison:
    """The tasks of a task file, prepared as the package prepares them, and methods with changes to what was published."""

    def __init__(self, task_file, **changes):
        self.changes = changes
        file = read_task_file(task_file)
        inputs = read_merge_inputs(file, silent)
        pretrained = inputs.load(torch.device("cpu"))
        self.backbone, self.architecture = pretrained.backbone, inputs.architecture
        self.tasks, self.batches, self.labels = [], {}, {}
        for task in inputs.tasks:
            name = task.source.name
            self.tasks.append(task.load(pretrained))
            tests = read_labeled(task.source.test, file.path.parent, task.source.classes)
            images = tests.load(range(len(tests)), self.architecture)
            self.batches[name] = TestBatch(images, name, list(range(len(images))), f"{name}, clean")
            self.labels[name] = torch.tensor(tests.labels)

    def workbench(self):
        """A new one, that has kept nothing yet."""
        return Workbench(self.backbone, self.architecture, torch.device("cpu"), seed=0)

    def built(self, name, workbench=None, **changes):
        """A method before any task, on a workbench of its own unless one is given."""
        spec = SPECS[name]
        return spec.build(workbench or self.workbench(), spec.published(len(self.tasks)) | self.changes | changes)

    def merged(self, name, workbench=None, order=(0, 1, 2), **changes):
        """A method after all tasks."""
        method = self.built(name, workbench, **changes)
        for t in order:
            method.add(self.tasks[t])
        return method

    def history(self, method, order=None):
        """P1, P2, P3 -> accuracies right after each task's own merge and after the last, in percent, and (ACC, BWT)."""
        tasks = [self.tasks[t] for t in order or range(len(self.tasks))]
        after_own, final = ({p: [] for p in PROTOCOLS} for _ in range(2))
        for t, task in enumerate(tasks):
            method.add(task)
            self._measure(method, tasks[: t + 1], t, after_own)
        for t in range(len(tasks)):
            self._measure(method, tasks, t, final)
        summary = {p: (average_accuracy(final[p]), backward_transfer(after_own[p], final[p])) for p in PROTOCOLS}
        return after_own, final, summary

    def _measure(self, method, merged, t, into):
        batch = self.batches[merged[t].name]
        answer, named = method.answer(batch), method.answer_named(batch, batch.task)
        labels, heads = self.labels[batch.task], [task.head for task in merged]
        for protocol, right in measure(answer, named, labels, t, heads, len(heads)).right.items():
            into[protocol].append(right)


def one_by_one(batch):
    """Each image of a batch alone."""
    for i, number in enumerate(batch.numbers):
        yield TestBatch(batch.images[i : i + 1], batch.task, [number], batch.source)
