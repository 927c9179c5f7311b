"""The site's URLs."""

from django.urls import path

from game import views

urlpatterns = [
    path("matches/", views.finish_match),
    path("trainings/", views.finish_training),
    path("players/<int:user_id>/commands/<uuid:command_id>/", views.command_status, name="command_status"),
    path("players/<int:user_id>/", views.player),
]
