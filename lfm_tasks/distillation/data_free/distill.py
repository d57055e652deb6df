"""The step *distill_data_free*: a student learns what a teacher answers to images that were made for it. No data is looked at."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from lfm_tasks.catalogue import METHODS
from lfm_tasks.distillation.data_free.config import DistillDataFreeConfig
from lfm_tasks.distillation.data_free.guard import no_data
from lfm_tasks.distillation.data_free.learning import Learning
from lfm_tasks.distillation.data_free.report import write_report
from lfm_tasks.distillation.data_free.synthesis import Setting
from lfm_tasks.distillation.data_free.teachers import as_seen
from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.images import ImageSpace, class_names, image_space, open_image_classifier
from lfm_tasks.models.saving import save_image_model
from lfm_tasks.seeds import derive_seed
from lfm_tasks.step import Input, Outcome, Output, StepContext


def run(config: DistillDataFreeConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    with no_data(config.step):
        return distill(config, inputs, context)


def distill(config: DistillDataFreeConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    began = time.process_time()
    card, options = METHODS[config.method], config.method_config()
    model, student = open_image_classifier(inputs["teacher"]), open_image_classifier(inputs["student"])
    space = image_space(inputs["teacher"], config.image_size)
    check_pair(model, student, inputs, space)
    student.config.id2label, student.config.label2id = model.config.id2label, model.config.label2id
    if config.student_weights == "fresh":
        student = drawn_anew(student, config.seed)
    teacher = as_seen(model, card.access, getattr(options, "query_budget", 0))
    setting = Setting(teacher, student, space, model.config.num_labels, config.batch_size, config.seed, lambda: learning.poll())
    learning = Learning(config, options, teacher, student, card.function(setting, options), context)
    context.log(
        f"{card.title}: {options.rounds} rounds of {options.images} images, {space.channels}x{space.height}x{space.width}, "
        f"{model.config.num_labels} classes; the teacher is seen by its {', '.join(card.access)}."
    )
    learning.run()
    seconds = learning.cpu_seconds + time.process_time() - began
    cost = {"cpu_seconds": seconds, "peak_memory_bytes": float(peak_rss_bytes())}
    outcome = write_report(learning, card, space, inputs, cost, context.workdir)
    states = {"model": learning.best} | {f"checkpoints.{place}": one for place, one in enumerate(learning.kept.values())}
    for name, state in states.items():
        student.load_state_dict(state)
        save_image_model(student, [inputs["student"].path, inputs["teacher"].path], context.workdir / name)
        outcome.outputs[name] = Output("model", context.workdir / name)
    return outcome


def check_pair(teacher: PreTrainedModel, student: PreTrainedModel, inputs: Mapping[str, Input], space: ImageSpace) -> None:
    """Raise :class:`IncompatibleModels` unless both tell the same classes apart, in images of one shape."""
    names = [class_names(model) for model in (teacher, student)]
    named = [one for one in names if one[0] != "LABEL_0"]
    if len(names[0]) != len(names[1]) or (len(named) == 2 and named[0] != named[1]):
        raise IncompatibleModels(
            f"{inputs['student'].reference} tells {len(names[1])} classes apart ({', '.join(names[1][:3])}, …), the teacher "
            f"{inputs['teacher'].reference} {len(names[0])} ({', '.join(names[0][:3])}, …). Give a student of the teacher's classes."
        )
    wanted = (getattr(student.config, "num_channels", 3), getattr(student.config, "image_size", space.height))
    if wanted not in ((space.channels, space.height), (space.channels, [space.height, space.width])):
        raise IncompatibleModels(
            f"{inputs['student'].reference} takes {wanted[0]} channels of size {wanted[1]}, the teacher {space.channels} of "
            f"{space.height}x{space.width}. Give a student for the teacher's images."
        )


def drawn_anew(student: PreTrainedModel, seed: int) -> PreTrainedModel:
    """The same architecture with weights drawn from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "student"))
        return type(student)(student.config).eval()
