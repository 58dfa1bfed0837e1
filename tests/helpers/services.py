"""A tracking service that notes what it is told."""

import importlib.machinery
import types


class Service(types.ModuleType):
    """Notes its calls; fails when the step is ``bad_step``."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.starts, self.logged, self.finished, self.bad_step = [], [], 0, None

    def init(self, **settings):
        if settings["project"] == "closed":
            raise ConnectionError("no key\nlog in first")
        print("a greeting")
        self.starts.append(settings)
        return self

    def log(self, metrics, step):
        if step == self.bad_step:
            raise OSError("gone away")
        self.logged.append((step, metrics))

    def finish(self):
        self.finished += 1

    def Image(self, array):  # noqa: N802
        return "image", array.shape
