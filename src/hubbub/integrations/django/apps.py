"""The Django app."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules

from ...engine.callback import around_threads


class HubbubConfig(AppConfig):
    """Put ``"hubbub.integrations.django"`` into ``INSTALLED_APPS``."""

    name = "hubbub.integrations.django"
    label = "hubbub"
    verbose_name = "hubbub"

    def ready(self) -> None:
        """Import the `live` module of each installed app, which declares its rooms; connect the rest."""
        from . import checks  # noqa: F401  # they register themselves
        from .signals import logged_out
        from .threads import database_connections

        if database_connections not in around_threads:
            around_threads.append(database_connections)
        if self.apps is None or self.apps.is_installed("django.contrib.auth"):
            from django.contrib.auth.signals import user_logged_out

            user_logged_out.connect(logged_out, dispatch_uid="hubbub")
        autodiscover_modules("live")
