"""SQLAlchemy: Core and ORM over psycopg, and its asyncio side over asyncpg."""

import asyncio

from sqlalchemy import ForeignKey, create_engine, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from common import MARK, URL, ok, same


class Base(DeclarativeBase):
    pass


class Deck(Base):
    __tablename__ = f"deck_{MARK}"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(unique=True)
    cards: Mapped[list["Card"]] = relationship(back_populates="deck", cascade="all, delete-orphan")


class Card(Base):
    __tablename__ = f"card_{MARK}"
    id: Mapped[int] = mapped_column(primary_key=True)
    front: Mapped[str]
    deck_id: Mapped[int] = mapped_column(ForeignKey(Deck.id))
    deck: Mapped[Deck] = relationship(back_populates="cards")


engine = create_engine(URL.replace("postgresql:", "postgresql+psycopg:"), pool_size=4, pool_pre_ping=True)
Base.metadata.create_all(engine)
ok("tables are made")

with Session(engine) as session:
    session.add_all(Deck(title=f"deck {n}", cards=[Card(front=f"card {n}.{m}") for m in range(20)]) for n in range(20))
    session.commit()
    same(session.scalar(select(func.count()).select_from(Card)), 400)
    deck = session.scalars(select(Deck).where(Deck.title == "deck 7")).one()
    same(len(deck.cards), 20)
    deck.title = "renamed"
    session.flush()
    session.rollback()
    same(session.get(Deck, deck.id).title, "deck 7")
    ok("objects in and out")

    session.add(Deck(title="deck 7"))
    try:
        session.commit()
        raise AssertionError("a duplicate was taken")
    except IntegrityError:
        session.rollback()
    with session.begin_nested():
        session.add(Deck(title="nested"))
    session.commit()
    same(session.scalar(select(func.count()).select_from(Deck)), 21)
    try:
        session.execute(text("SELECT 1/0"))
    except DBAPIError:
        session.rollback()
    same(session.execute(text("SELECT :a + :b"), {"a": 1, "b": 2}).scalar_one(), 3)
    ok("errors, savepoints, text")

with engine.connect() as conn:
    rows = conn.execution_options(stream_results=True, yield_per=50).execute(select(Card.id))
    same(sum(1 for _ in rows), 400)
    ok("streamed rows")


async def asynchronously():
    engine = create_async_engine(URL.replace("postgresql:", "postgresql+asyncpg:"), pool_size=4)

    async def one(n):
        async with engine.begin() as conn:
            same((await conn.execute(text("SELECT CAST(:n AS int) * 2"), {"n": n})).scalar_one(), n * 2)

    await asyncio.gather(*(one(n) for n in range(50)))
    await engine.dispose()
    ok("asyncio")


asyncio.run(asynchronously())
Base.metadata.drop_all(engine)
engine.dispose()
ok("tables are dropped")
