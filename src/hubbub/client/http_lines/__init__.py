"""Lines over HTTP: what comes down is a response that goes on, or polls; what goes up are POSTs."""

from .dialling import dialling

__all__ = ["dialling"]
