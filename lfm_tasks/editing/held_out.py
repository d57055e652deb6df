"""General text for the perplexity guard, for edits that are given none. Nobody edits what it says."""

HELD_OUT = (
    "The path went down through the orchard and over a narrow bridge, where the boards had been mended so often that nothing was left "
    "of the first ones. On the other side there was a field that nobody had mown that year, and behind it the roofs of the village "
    "began.",
    "To make the dough, put the flour into a large bowl, add a little salt, and rub in the butter with your fingers until the mixture "
    "looks like fine crumbs. Then add cold water, one spoon at a time, and let it rest for half an hour before you roll it out.",
    "A queue keeps its elements in the order in which they came. The one that has waited longest is served first, which is fair, but "
    "not always quick: a short task may stand behind a long one. A heap serves the most urgent first, at the price of some "
    "bookkeeping.",
    "She had been told that the meeting would take an hour. After two hours the chairman was still reading out the minutes of the "
    "meeting before, and half of those who sat along the wall had fallen asleep or were pretending to.",
    "Plants take up water through their roots and lose it through their leaves. On a hot day a tall tree can give several hundred "
    "litres to the air, which cools the ground below it; that is why a wood feels fresh when the fields around it do not.",
    "The committee found that the costs had been estimated in good faith, but that prices had risen faster than anyone expected. It "
    "asked for a new plan by the end of the month, with a list of what could be left out if the money did not suffice.",
    "When the engine is cold, let it run for a minute before you drive off. Check the oil once a week and the tyres once a month, and "
    "listen for sounds that were not there before; most faults can be heard long before they can be seen.",
    "He learned to play the violin late, at an age when others give it up, and he never played well. But he went on every evening, "
    "and in the end the neighbours missed it when he was away.",
)
