"""Sentences for synthetic voices, built from small phrase books, one a language."""

import random
import re

# A pattern's slots are filled from the lists of the same name.
PHRASES = {
    "en": (
        (
            "please {do} the {thing} {when}",
            "you can {do} the {thing} or {do} another {thing} {when}",
            "the {person} {said} that the {thing} is {state}",
            "i would like to {do} this {thing} {when}",
            "there are {number} new messages for the {person}",
            "press {number} to {do} your {thing} or {number} to {do} the next one",
            "the number of the {person} is {number} {number} {number}",
            "your {thing} is {state} and the {person} will {do} it {when}",
            "if the {thing} is {state} please tell the {person} {when}",
            "thank you for waiting the {person} is {state} {when}",
        ),
        {
            "do": "open close change hear send save check record call find move count".split(),
            "thing": "message door window account folder password line question number letter room".split(),
            "person": "operator doctor teacher manager caller agent neighbor driver leader guest".split(),
            "said": "says thinks knows believes hopes remembers".split(),
            "state": "ready busy empty late open closed quiet full important available missing".split(),
            "when": ["now", "today", "tomorrow", "in the morning", "after the tone", "on monday", "at seven"],
            "number": "zero one two three four five six seven eight nine".split(),
        },
    ),
    "es": (
        (
            "por favor {do} {thing} {when}",
            "{person} dice que {thing} ya no es importante",
            "si quiere {do} {thing} marque el {number} {when}",
            "usted tiene {number} mensajes nuevos de {person}",
        ),
        {
            "do": "abrir cerrar cambiar escuchar enviar guardar buscar".split(),
            "thing": ["el mensaje", "la puerta", "la cuenta", "la carpeta", "el buzón", "la pregunta"],
            "person": ["el operador", "la doctora", "el maestro", "la agente", "mi vecino"],
            "when": ["ahora", "mañana", "esta noche", "después del tono", "a las siete"],
            "number": "cero uno dos tres cuatro cinco seis siete ocho nueve".split(),
        },
    ),
    "fr": (
        (
            "veuillez {do} {thing} {when}",
            "{person} dit que {thing} n'est plus important",
            "pour {do} {thing} appuyez sur {number} {when}",
            "vous avez {number} nouveaux messages de {person}",
        ),
        {
            "do": "ouvrir fermer changer écouter envoyer garder chercher".split(),
            "thing": ["le message", "la porte", "le compte", "le dossier", "la boîte vocale", "la question"],
            "person": ["la réception", "le docteur", "la directrice", "mon voisin", "l'agent"],
            "when": ["maintenant", "demain", "ce soir", "après le bip", "à sept heures"],
            "number": "zéro un deux trois quatre cinq six sept huit neuf".split(),
        },
    ),
    "it": (
        (
            "prego {do} {thing} {when}",
            "{person} dice che {thing} non è più importante",
            "per {do} {thing} premere {number} {when}",
            "ci sono {number} nuovi messaggi per {person}",
        ),
        {
            "do": "aprire chiudere cambiare ascoltare inviare salvare cercare".split(),
            "thing": ["il messaggio", "la porta", "il conto", "la cartella", "la casella", "la domanda"],
            "person": ["l'operatore", "la dottoressa", "il maestro", "il mio vicino", "la direttrice"],
            "when": ["adesso", "domani", "questa sera", "dopo il segnale", "alle sette"],
            "number": "zero uno due tre quattro cinque sei sette otto nove".split(),
        },
    ),
    "ru": (
        (
            "пожалуйста {do} {thing} {when}",
            "{person} говорит что {thing} уже не важно",
            "нажмите {number} чтобы {act} {thing} {when}",
            "{person} просит вас {act} {thing}",
        ),
        {
            "do": "откройте закройте измените проверьте отправьте сохраните".split(),
            "act": "открыть закрыть изменить проверить отправить сохранить".split(),
            "thing": ["сообщение", "окно", "письмо", "имя", "задание", "название папки"],
            "person": ["оператор", "доктор", "учитель", "мой сосед", "директор"],
            "when": ["сейчас", "завтра", "сегодня вечером", "после сигнала", "в семь часов"],
            "number": "ноль один два три четыре пять шесть семь восемь девять".split(),
        },
    ),
}


def sentence(language: str, rng: random.Random) -> str:
    """Draws a sentence in normalised form."""
    patterns, fillers = PHRASES[language]
    return re.sub(r"{(\w+)}", lambda slot: rng.choice(fillers[slot[1]]), rng.choice(patterns))
