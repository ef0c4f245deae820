"""Words of English, and phrases of comfort, by which replies that answer nothing are told apart.

All is in lower case with straight apostrophes, as normalised text is.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMMON_WORDS = _words(
    """
    a about after again all also always an and any are as at be because been before being
    best better between both but by can can't could day did do does don't each even every
    few first for from get give go good had has have he help her here him his how i i'm if
    in into is it it's its just keep know last let like long look make many may me more
    most much must my need never new no not now of off often old on one only or other our
    out over own people put right same say see she should so some such take than that
    that's the their them then there these they thing things this those through time to
    too two under until up us use very want was water way we well were what when where
    which while who why will with without work would year yes you you're your
    """
)
"""English text of some length has a few of these."""

VERBS = _words(
    """
    add am apply are ask avoid bake be been begin boil book bring brush build buy call can
    carry change check choose clean click close come cook cool cover cut depends did do
    does dry drink eat enter fill find fix fold follow freeze get give go grow had has
    have heat help hold install is keep know learn leave let lets lift like live look made
    make makes may means measure might mix move must need needs open order pack pay pick
    plan plant play pour press pull push put read remove repeat rest restart rinse roll
    run save say search see sell send set shake should show sit sleep slice soak sort
    spend start stay steam stir stop store stretch study swim switch take talk tap taste
    tell test think tie trim try turn type use visit wait walk want was wash wear were
    wipe will works would wrap write
    """
)
"""Forms of common verbs, those of instructions above all."""

POINTS_BACK = _words(
    """
    absolutely alright certainly definitely first he her here him his it it's its no okay
    ok she step such sure that that's their them then these they this those yes you you'd you'll
    you're your yours
    """
)
"""Words by which a reply may speak of the request without its words."""

DANGLING_WORDS = _words(
    """
    a an and as at because between but by from if into my nor of or our than that's the
    their these this to very which while whose with your
    """
)
"""Words that no finished reply ends with, unless a mark follows."""

CONTRACTION = re.compile(r"(?:n't|'(?:re|ll|ve|m|d|s))$")
VERB_ENDING = re.compile(r"\w{3}(?:ing|ed|ify|ise|ize)$")

_KEYBOARD = "qwer|asdf|sdfg|dfgh|fghj|ghjk|hjkl|zxcv|xcvb|cvbn|vbnm|lkjh|kjhg|mnbv|poiu|uiop"
_RARE_PAIRS = (
    "b[qx]|c[jvx]|dx|f[qxz]|g[qx]|hx|j[bcdfghkmpqtvwxz]|k[qxz]|m[qx]|pq|q[b-hj-tv-z]|sx|tq|"
    "v[bcdfghjkmnpqtwxz]|w[qvx]|x[dgjkz]|yq|z[cdfgjpqrtx]"
)
MASHED_KEYS = re.compile(_KEYBOARD)
IMPLAUSIBLE_WORD = re.compile(rf"{_KEYBOARD}|{_RARE_PAIRS}|^[b-df-hj-np-tv-xz]{{5,}}$")
"""In words that nobody would read as English."""

WANTS_MORE = re.compile(
    r"\bhow (?:do|does|did|can|could|should|would|might|to)\b|\bwhy\b"
    r"|\b(?:explain|describe|summari[sz]e|compare|compose|draft|write|teach me|walk me through)\b"
    r"|\btell me (?:about|how|why|more|what to)\b|\bshow me how\b|\bhelp me\b"
    r"|\b(?:tips|steps|instructions|recipe|advice|ways to|difference between|pros and cons)\b"
    r"|\b(?:way|ways) to\b|\bwhat (?:can|should|could|do) i do\b|\bwhat is the best way\b"
    r"|\bgive me an? (?:plan|list|overview|example|recipe|summary|story)\b"
)
"""In prompts that a word or two cannot answer."""
WANTS_LITTLE = re.compile(
    r"\b(?:one|a single|two|three|few) words?\b|\bone-word\b|\bin a word\b|\byes or no\b"
    r"|\b(?:say|spell|pronounce|spelled|spelt|translate|called)\b|\bhow do(?:es)? you do\b"
    r"|\b(?:title|headline|slogan|caption|tagline|subject line|name|username|hashtag|emoji|pun)\b"
    r"|\b(?:number|letter|digit|synonym|antonym|word|abbreviation|acronym)\b"
    r"|\b(?:a|b), (?:b|c)\b|\bmultiple choice\b|\bcommand\b|\bshort(?:est)? answer\b"
)
"""In prompts that a word or two can answer, whatever else they hold."""
ASKS = re.compile(
    r"\?|^(?:please |now |then )?(?:tell|give|write|explain|describe|list|show|help|make|create|"
    r"name|suggest|compare|summari[sz]e|translate|find|plan|draft|teach|recommend|how|what|which|"
    r"who|when|where|why|can you|could you|would you|i need|i want|i'd like|i would like)\b"
)
"""In prompts that want something."""
OF_FEELINGS = re.compile(
    r"\b(?:sad|anxious|lonely|alone|afraid|scared|nervous|worried|stress\w*|depress\w*|upset|"
    r"heartbroken|griev\w*|grief|cry|crying|died|dead|death|passed away|overwhelmed|hurts?|"
    r"hopeless|tired|ashamed|guilty|feel|feeling|comfort\w*|encourag\w*|cheer|console|kind words|"
    r"reassur\w*|condolences?|sympathy|motivat\w*|affirmations?|support\w*)\b"
)
"""In prompts to which comfort may be an answer."""
ANOTHER_LANGUAGE = re.compile(
    r"\b(?:translat\w*|language|in (?:french|german|spanish|italian|latin|dutch|portuguese|polish|"
    r"swedish|welsh|finnish|turkish|swahili)|keyboard|anagram|cipher|encrypt\w*|lyrics)\b"
)
"""In prompts whose answer need not be of English words."""

CLAUSE_END = re.compile(r"[.!?;,:]+(?: |$)| (?:and|but|because) | - ")
COMFORT = re.compile(
    r"(?:(?:please|oh|hey|dear|friend|and|just|always) )?(?:"
    r"you(?:'re| are) (?:\w+ )?(?:not|never) alone(?: in this| with this| here)?"
    r"|(?:i'm|i am|we're|we are|i'll be|i will be) (?:always )?here(?: (?:for you|to listen"
    r"|with you|to help|to support you|to talk|if you (?:need|want)[\w ]{0,30}"
    r"|whenever[\w ]{0,30}))*"
    r"|(?:i'm|i am) (?:so |very |really |truly |deeply )?sorry(?: (?:to hear (?:that|this|it)|that "
    r"you(?:'re| are) (?:going through|feeling) [\w ]{2,20}|you(?:'re| are) going through this"
    r"|for your loss|you feel (?:this|that) way))?"
    r"|(?:it's|it is|that's|that is) (?:okay|ok|alright|all right|normal|understandable)"
    r"(?: (?:to (?:feel|cry|rest|not be okay|ask for help)[\w ]{0,20}|not to be okay))?"
    r"|(?:that|this|it) (?:sounds|must be|seems) (?:so |very |really |incredibly )?(?:hard|tough|"
    r"difficult|painful|overwhelming)(?: for you)?"
    r"|(?:i|we) (?:understand|hear you|care about you|believe in you|see you|know)"
    r"(?: (?:how you feel|you|it's hard|it is hard|that (?:it's|this is) hard))?"
    r"|your (?:feelings|emotions) (?:are|matter)(?: (?:valid|important))?"
    r"|you (?:matter|are loved|are valued|are strong|are enough|'ve got this|can do this"
    r"|can do it|will get through this|will be okay|will be fine)"
    r"|you(?:'re| are) (?:loved|strong|enough|safe)"
    r"|you(?:'ve| have) got this|(?:things|it) will (?:get|be) (?:better|okay|ok|fine|all right)"
    r"|everything (?:will|is going to) be (?:okay|ok|fine|all right|alright)"
    r"|be (?:kind|gentle) (?:to|with) yourself|take (?:good )?care(?: of yourself)?"
    r"|stay strong|hang in there|take a deep breath|take your time|don't give up|don't worry"
    r"|one (?:day|step) at a time|there is (?:always )?hope|help is available"
    r"|(?:reach out|talk|speak) to (?:someone(?: you trust)?|a (?:\w+ )?(?:friend|counsell?or"
    r"|doctor|therapist|professional)|someone who cares|a loved one)"
    r"|(?:thank you|thanks) for (?:sharing|reaching out|telling me)(?: (?:this|that))?(?: with me)?"
    r"|my heart goes out to you|sending (?:you )?(?:love|hugs|strength)"
    r")"
)
"""A whole clause of comfort."""
