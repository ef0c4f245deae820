"""The user's turns of an attack: the prompt in disguise, then what follows, perhaps translated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cai.attacks.disguises import Disguise
from cai.attacks.plan import AttackTurn
from cai.attacks.translation import TRANSLATION, Translate
from cai.attacks.user_turns import NextTurn, ladder_turn, with_reply
from cai.records import Chat, Message


@dataclass(frozen=True)
class TurnWriter:
    """What writes the user's turns."""

    disguises: Mapping[str, Disguise | None]
    next_turn: NextTurn = ladder_turn
    translate: Translate | None = None
    language: str = ""

    async def write(self, item: AttackTurn) -> Chat:
        """The conversation that the target is given.

        Raises:
            UnansweredError: the attacker or the translator has no answer.
        """
        attack = item.attack
        if item.previous is None:
            disguise = self.disguises[attack.disguise]
            chat = attack.prompt.chat if disguise is None else disguise(attack.prompt.chat)
        else:
            earlier = with_reply(item.previous.chat, item.previous.response)
            text = await self.next_turn(attack.prompt, earlier, (attack.number, item.turn))
            chat = (*earlier, Message(role="user", content=text))
        if attack.disguise == TRANSLATION and self.translate is not None:
            text = await self.translate(chat[-1].content, self.language)
            chat = (*chat[:-1], Message(role="user", content=text))
        return chat
