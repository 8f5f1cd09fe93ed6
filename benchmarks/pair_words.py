"""Words by category, for the skill `words`; no word stands in two categories."""

CATEGORIES = {
    name: members.split()
    for name, members in {
        "an animal": "wolf bear deer horse tiger lion rabbit goat sheep camel zebra "
        "monkey elephant fox squirrel donkey giraffe leopard otter badger kangaroo "
        "buffalo hamster panther",
        "a bird": "eagle sparrow owl pigeon crow parrot duck goose swan stork robin "
        "hawk falcon pelican heron ostrich flamingo peacock gull finch raven vulture "
        "penguin woodpecker",
        "a fish": "salmon trout tuna cod herring carp eel shark sardine mackerel "
        "haddock halibut anchovy pike perch catfish swordfish sturgeon snapper "
        "flounder minnow barracuda",
        "a fruit": "apple banana cherry grape lemon mango melon peach pear plum "
        "raspberry strawberry apricot fig papaya pineapple blueberry kiwi lime "
        "coconut pomegranate cranberry",
        "a vegetable": "carrot cabbage onion potato spinach lettuce celery broccoli "
        "cucumber turnip radish leek cauliflower asparagus zucchini eggplant garlic "
        "beet parsnip kale artichoke pumpkin",
        "a tool": "hammer saw drill wrench chisel screwdriver pliers axe shovel rake "
        "spade crowbar sander clamp mallet hoe scythe anvil lathe trowel",
        "a metal": "iron copper silver gold zinc lead tin nickel aluminum titanium "
        "cobalt platinum tungsten chromium steel brass bronze mercury uranium lithium",
        "a color": "red blue green yellow purple orange pink brown black white gray "
        "violet crimson turquoise beige scarlet indigo magenta maroon teal",
        "an instrument": "piano violin guitar flute trumpet drum cello harp clarinet "
        "saxophone trombone banjo organ oboe accordion mandolin harmonica tuba "
        "bassoon ukulele",
        "a country": "France Germany Spain Italy Japan China India Brazil Canada "
        "Mexico Egypt Kenya Norway Sweden Poland Greece Turkey Peru Chile Korea "
        "Vietnam Portugal Nigeria Argentina",
        "a job": "doctor teacher lawyer nurse farmer baker carpenter plumber pilot "
        "engineer chef tailor butcher dentist painter mechanic librarian electrician "
        "accountant firefighter judge surgeon",
        "a piece of clothing": "shirt trousers jacket coat skirt dress sweater hat "
        "scarf gloves socks shoes boots jeans blouse vest tie belt sandals pajamas",
        "a piece of furniture": "table chair sofa bed desk shelf wardrobe bench stool "
        "cabinet dresser couch bookcase armchair cupboard nightstand ottoman crib",
        "a vehicle": "car bus truck train bicycle motorcycle ship boat airplane "
        "helicopter tram van taxi scooter submarine ferry tractor yacht canoe wagon",
        "a part of the body": "arm leg head hand foot nose ear eye mouth shoulder knee "
        "elbow ankle wrist finger thumb neck stomach chest hip chin forehead",
        "a sport": "football tennis basketball hockey baseball golf rugby cricket "
        "swimming boxing wrestling volleyball skiing badminton judo fencing archery "
        "rowing karate surfing",
        "a drink": "water milk coffee tea juice beer wine lemonade cocoa cider soda "
        "whiskey vodka rum champagne brandy smoothie espresso",
        "a flower": "rose tulip daisy lily orchid sunflower daffodil carnation "
        "lavender marigold poppy iris jasmine peony lotus dandelion hyacinth",
        "a planet or moon": "Mars Venus Jupiter Saturn Neptune Uranus Earth Pluto "
        "Titan Europa Ganymede Callisto Triton Phobos",
        "a language": "English German French Spanish Latin Arabic Hindi Russian "
        "Swahili Dutch Korean Finnish Turkish Hebrew Bengali Portuguese Czech",
        "weather": "rain snow wind fog storm thunder lightning hail drizzle hurricane "
        "tornado blizzard frost breeze sleet",
        "a building": "house church castle school hospital library factory museum "
        "hotel barn tower palace cathedral warehouse cottage skyscraper temple "
        "lighthouse",
    }.items()
}
