"""What was said."""

from django.conf import settings
from django.db import models


class Saying(models.Model):
    """One thing that somebody said in a room."""

    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    room = models.CharField(max_length=100)
    text = models.CharField(max_length=2000)
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        """Return what was said."""
        return self.text
