"""`samplat cache`: what the cache of embeddings holds, whether it is sound, and how to empty it."""

from __future__ import annotations

from typing import Annotated

import typer

cache_app = typer.Typer(no_args_is_help=True, help="Embeddings kept on disk.")

Folder = Annotated[
    str | None,
    typer.Option("--cache", help="The cache's folder, or URL; the usual one without it."),
]
MIB = 2**20


@cache_app.command("info")
def show_cache(cache: Folder = None) -> None:
    """Show where the cache is, and how much it holds."""
    from samplat.cache import EmbeddingCache

    info = EmbeddingCache(cache).info()
    typer.echo(f"path:       {info.path}")
    typer.echo(f"embeddings: {info.entries}")
    typer.echo(f"size:       {info.bytes / MIB:.1f} MiB of {info.quota / MIB:.0f} MiB")
    for name in info.foreign:
        typer.echo(f"also there: {name}, of another version of samplat; remove it by hand")


@cache_app.command("clear")
def clear_cache(cache: Folder = None) -> None:
    """Remove all embeddings."""
    from samplat.cache import EmbeddingCache

    typer.echo(f"removed {EmbeddingCache(cache).clear()} embeddings")


@cache_app.command("verify")
def verify_cache(cache: Folder = None) -> None:
    """Read every embedding, and remove those that are damaged; status 1 if there were any."""
    from samplat.cache import EmbeddingCache

    damaged = EmbeddingCache(cache).verify()
    for path in damaged:
        typer.echo(f"damaged, removed: {path}")
    if damaged:
        raise typer.Exit(1)
    typer.echo("all embeddings are sound")
