"""A Django application in one file. One of `startproject` runs in the same way: `handler: shop.wsgi:application`."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import Http404, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

settings.configure(SECRET_KEY="only an example's", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
                   MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
items = {}  # A real one keeps them in its database: each worker is a process of its own.


def hello(request):
    return JsonResponse({"hello": request.GET.get("name", "world")})


@csrf_exempt
def item(request, key):
    if request.method == "POST":
        items[key] = request.POST.get("price", "")
        return JsonResponse({"stored": key}, status=201)
    if key not in items:
        raise Http404
    return JsonResponse({"price": items[key]})


def numbers(request):
    return StreamingHttpResponse(("%d\n" % number for number in range(int(request.GET.get("to", 3)))),
                                 content_type="text/plain")


urlpatterns = [path("", hello), path("items/<key>", item), path("numbers", numbers)]
app = get_wsgi_application()
