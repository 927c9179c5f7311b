"""Two ways to send from a transaction, and two to learn what happened."""

from django.db import transaction
from django.http import Http404, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_POST

from levelq import LevelUp, OutcomeUnknown
from levelq.django import outbox, producer

from .models import Match, Progress, Training


@require_POST
def finish_match(request):
    """By the outbox: the match and the level-up, or neither."""
    winner = int(request.POST["winner"])
    with transaction.atomic():
        Match.objects.create(winner=winner)
        handle = outbox().send(LevelUp(user_id=winner, specialization="PLAYER", xp_gained=150))
    return JsonResponse({"status_url": reverse("command_status", args=[winner, handle.command_id])}, status=202)


@require_POST
def finish_training(request):
    """By on_commit: sooner than the outbox, but lost if the process dies, or Redis is away, after the commit."""
    player = int(request.POST["player"])
    with transaction.atomic():
        Training.objects.create(player=player)
        transaction.on_commit(lambda: producer().level_up(player, "PLAYER", 20), robust=True)
    return JsonResponse({}, status=202)


def command_status(request, user_id, command_id):
    try:
        outcome = producer().outcome(command_id, user_id, "PLAYER")
    except OutcomeUnknown as error:
        raise Http404 from error
    if outcome is None:
        return JsonResponse({"status": "queued"})
    return JsonResponse({"status": outcome.status, "message": outcome.message, "to_level": outcome.to_level})


def player(request, user_id):
    progress = get_object_or_404(Progress, student_id=user_id, specialization_id="PLAYER")
    return JsonResponse({"level": progress.current_level, "total_xp": progress.total_xp})
