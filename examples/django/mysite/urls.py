"""Pages: a login, the chat, and a view that announces."""

from chat import views
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

urlpatterns = [
    path("", views.room, name="room"),
    path("login/", LoginView.as_view(template_name="chat/login.html"), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("say/", views.say, name="say"),
    path("asay/", views.asay, name="asay"),
    path("sayings/", views.sayings, name="sayings"),
]
