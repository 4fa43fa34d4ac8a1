"""`offload completion SHELL`: a script for the shell, made of what the commands declare."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from offload._cli import COMMANDS, parser_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["add_arguments", "choices_of", "parsers", "run", "script"]

_WHERE = {
    "bash": 'eval "$(offload completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(offload completion zsh)" in ~/.zshrc, after compinit',
    "fish": "offload completion fish > ~/.config/fish/completions/offload.fish",
}
# Words of a command by its name; COMP_WORDS[1] is the command.
_BASH = """\
_offload() {{
    local words
    case "$COMP_CWORD ${{COMP_WORDS[1]}}" in
        "1 "*) words="{commands}" ;;
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _offload offload
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"{shell}: {where}" for shell, where in _WHERE.items())
    parser.add_argument("shell", choices=list(_WHERE))


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    print(script(arguments.shell), end="")
    return 0


def script(shell: str) -> str:
    """Return what the shell has to read to complete the commands of `offload`."""
    words = {name: list(_words(parser)) for name, parser in parsers().items()}
    if shell == "fish":
        return "\n".join(_fish(words)) + "\n"
    cases = "\n".join(
        f'        *" {name}") words="{" ".join(each)}" ;;' for name, each in words.items()
    )
    bash = _BASH.format(commands=" ".join([*COMMANDS, "--help", "--version"]), cases=cases)
    return _ZSH + bash if shell == "zsh" else bash


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    parser, _ = parser_of(list(COMMANDS))
    return dict(choices_of(parser))


def choices_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the names of what can be chosen, such as actions of a command, and their parsers."""
    for action in parser._actions:  # noqa: SLF001 - there is no public way to what is declared
        if isinstance(action.choices, dict):  # of commands; those of an option are a list
            yield from action.choices.items()


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield actions, choices and long options, of actions of a command as well, each once."""
    seen: dict[str, None] = {}
    for name, inner in choices_of(parser):
        seen[name] = None
        seen.update(dict.fromkeys(_words(inner)))
    for action in parser._actions:  # noqa: SLF001 - as above
        if action.choices and not isinstance(action.choices, dict):
            seen.update(dict.fromkeys(map(str, action.choices)))
        seen.update(dict.fromkeys(each for each in action.option_strings if each[:2] == "--"))
    yield from seen


def _fish(words: dict[str, list[str]]) -> Iterator[str]:
    for name, (_, help_line) in COMMANDS.items():
        yield f"complete -c offload -n __fish_use_subcommand -f -a {name} -d {_quoted(help_line)}"
    yield "complete -c offload -n __fish_use_subcommand -f -a '--help --version'"
    for name, each in words.items():
        condition = f"'__fish_seen_subcommand_from {name}'"
        yield f"complete -c offload -n {condition} -a {_quoted(' '.join(each))}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
