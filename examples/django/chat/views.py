"""Pages, and views that publish."""

from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from chat.live import Said, chat
from chat.models import Saying
from hubbub.integrations.django import apublish, publish_on_commit


@login_required
def room(request: HttpRequest) -> HttpResponse:
    """Show the chat."""
    return render(request, "chat/room.html")


@login_required
@require_POST
@transaction.atomic
def say(request: HttpRequest) -> HttpResponse:
    """Say something with a form. What is rolled back is told to nobody."""
    saying = Saying.objects.create(author=request.user, room="lobby", text=request.POST["text"])
    told = Said(id=saying.pk, author=request.user.get_username(), text=saying.text)
    publish_on_commit(chat(name="lobby"), told)
    if "fail" in request.POST:
        transaction.set_rollback(True)
    return HttpResponse(status=204)


@login_required
@require_POST
async def asay(request: HttpRequest) -> HttpResponse:
    """Say something, from an asynchronous view."""
    user = await request.auser()
    saying = await Saying.objects.acreate(author=user, room="lobby", text=request.POST["text"])
    await apublish(chat(name="lobby"), Said(id=saying.pk, author=user.get_username(), text=saying.text))
    return HttpResponse(status=204)


def sayings(request: HttpRequest) -> JsonResponse:  # noqa: ARG001
    """Tell what was said, the latest last."""
    return JsonResponse({"sayings": list(Saying.objects.order_by("pk").values_list("text", flat=True))})
