"""What is predicted: one file per kind of task."""

from remora.tasks.base import Task, make_task, task_for

__all__ = ["Task", "make_task", "task_for"]
