"""Django's ORM: migrations by the schema editor, queries, transactions, server-side cursors and binding."""

import threading

import django
from django.conf import settings

from common import DATABASE, HOST, MARK, PASSWORD, PORT, USER, ok, same


def database(**options):
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": DATABASE,
        "USER": USER,
        "PASSWORD": PASSWORD,
        "HOST": HOST,
        "PORT": PORT,
        **options,
    }


settings.configure(
    DATABASES={
        # As Django's manual says for a transaction pooler.
        "default": database(DISABLE_SERVER_SIDE_CURSORS=True),
        "persistent": database(CONN_MAX_AGE=None, DISABLE_SERVER_SIDE_CURSORS=True, OPTIONS={"server_side_binding": True}),
    },
    TIME_ZONE="Europe/Berlin",
    USE_TZ=True,
)
django.setup()

from django.db import IntegrityError, connection, connections, models, transaction  # noqa: E402
from django.db.models import Count, F, Sum  # noqa: E402


class Author(models.Model):
    name = models.TextField(unique=True)
    born = models.DateTimeField(null=True)

    class Meta:
        app_label = "tests"
        db_table = f"author_{MARK}"


class Book(models.Model):
    author = models.ForeignKey(Author, models.CASCADE, related_name="books")
    title = models.TextField()
    pages = models.IntegerField()
    tags = models.JSONField(default=dict)

    class Meta:
        app_label = "tests"
        db_table = f"book_{MARK}"


with connection.schema_editor() as editor:
    editor.create_model(Author)
    editor.create_model(Book)
ok("tables are made")

for alias in ("default", "persistent"):
    authors = Author.objects.using(alias)
    books = Book.objects.using(alias)
    ada = authors.create(name=f"Ada {alias}")
    Book.objects.using(alias).bulk_create(
        [Book(author=ada, title=f"Volume {n}", pages=n, tags={"n": n}) for n in range(500)]
    )
    same(books.filter(author=ada, pages__gte=250).count(), 250)
    same(books.filter(author=ada).aggregate(Sum("pages"))["pages__sum"], 124_750)
    same(books.get(author=ada, tags__n=7).title, "Volume 7")
    books.filter(author=ada).update(pages=F("pages") + 1)
    same(books.filter(author=ada).values("author").annotate(n=Count("id")).get()["n"], 500)
    same(sum(1 for _ in books.filter(author=ada).iterator(chunk_size=50)), 500)
    ok(f"queries, {alias}")

    with transaction.atomic(using=alias):
        authors.create(name=f"kept {alias}")
        try:
            with transaction.atomic(using=alias):
                authors.create(name=f"kept {alias}")
        except IntegrityError:
            pass
    same(authors.filter(name=f"kept {alias}").count(), 1)
    try:
        with transaction.atomic(using=alias):
            authors.create(name="rolled back")
            raise RuntimeError
    except RuntimeError:
        pass
    same(authors.filter(name="rolled back").count(), 0)
    with connections[alias].cursor() as cursor:
        cursor.execute("SHOW TimeZone")
        same(cursor.fetchone()[0], "UTC")
    ok(f"transactions, {alias}")


def in_a_thread():
    for n in range(20):
        same(Author.objects.filter(pk=n).count() <= 1, True)
    connection.close()


threads = [threading.Thread(target=in_a_thread) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ok("threads")

connections["persistent"].close()
with connection.schema_editor() as editor:
    editor.delete_model(Book)
    editor.delete_model(Author)
ok("tables are dropped")
