"""The words of the world: twelve categories, five topics in each, eight words in each topic.

Only text; the grammar that uses it is in `texts`.
"""

CATEGORIES: dict[str, dict[str, str]] = {
    "food": {
        "baking": "sourdough bread muffins croissants dough frosting cake oven",
        "street food": "noodles skewers dumplings tacos kebab stall grill pancakes",
        "home cooking": "soup stew curry fried-rice casserole pan leftovers broth",
        "coffee": "espresso latte beans roast filter crema barista grinder",
        "vegan": "tofu lentils chickpeas hummus salad oats smoothie tempeh",
    },
    "travel": {
        "beaches": "lagoon sand snorkel island palm reef sunset surf",
        "mountains": "summit ridge glacier hut trail pass peak valley",
        "cities": "skyline alley market metro rooftop museum square tram",
        "camping": "tent campfire lantern hammock stove lake forest stars",
        "trains": "sleeper station carriage viaduct timetable locomotive platform tunnel",
    },
    "sport": {
        "football": "goal striker penalty keeper corner derby dribble kick-off",
        "basketball": "dunk crossover rebound buzzer three-pointer court assist hoop",
        "running": "marathon sprint intervals trainers pace track finish stride",
        "yoga": "stretch balance breathing mat plank posture flow warm-up",
        "climbing": "boulder chalk crux rope belay overhang dyno crimp",
    },
    "music": {
        "guitar": "riff chords fingerstyle amp solo strings pedal capo",
        "piano": "sonata keys prelude waltz octave scales nocturne duet",
        "dance": "choreography footwork spin routine breakdance salsa hip-hop studio",
        "singing": "cover chorus falsetto harmony karaoke ballad microphone choir",
        "electronic": "synth drop beat remix sampler loop bassline turntable",
    },
    "animals": {
        "cats": "kitten whiskers purr yarn litter paw nap scratching-post",
        "dogs": "puppy leash fetch bark corgi retriever trick walkies",
        "birds": "parrot nest owl feathers budgie flock crane chick",
        "aquarium": "tank goldfish coral shrimp filter tetra algae betta",
        "wildlife": "lion elephant safari waterhole fox cub herd migration",
    },
    "games": {
        "shooters": "headshot sniper clutch ranked squad loadout respawn aim",
        "puzzle": "sudoku maze riddle tiles escape-room level-up logic combo",
        "strategy": "siege colony harvest tech-tree diplomacy outpost scout rush",
        "retro": "pixel arcade cartridge joystick speedrun platformer console chiptune",
        "board games": "dice meeple chess checkmate cards bluff expansion hex",
    },
    "beauty": {
        "make-up": "lipstick eyeliner foundation blush palette contour mascara gloss",
        "hair": "braid curls fringe bun shampoo highlights bob updo",
        "skin care": "serum cleanser sunscreen toner retinol mask moisturiser routine",
        "nails": "manicure polish gel glitter french-tips stickers cuticle stencil",
        "fashion": "outfit denim sneakers thrift lookbook scarf blazer accessories",
    },
    "home": {
        "gardening": "tomatoes seedlings compost roses pruning greenhouse bulbs herbs",
        "woodworking": "dovetail chisel workbench oak lathe planer joint varnish",
        "cleaning": "vacuum stain declutter laundry shelf sponge grout mop",
        "interiors": "sofa wallpaper lamp rug curtains loft armchair makeover",
        "repairs": "tap drill plaster socket hinge leak paint toolbox",
    },
    "cars": {
        "racing": "lap pit-stop chicane overtake grid qualifying drift podium",
        "classics": "roadster chrome barn-find restoration carburettor convertible coupe vintage",
        "motorbikes": "throttle helmet wheelie exhaust chain cruiser scooter hairpin",
        "electric": "battery charger range motor kilowatts torque plug autopilot",
        "off-road": "mud winch dunes suspension tyres rock-crawl convoy jeep",
    },
    "science": {
        "space": "rocket orbit telescope nebula astronaut moon comet launch",
        "chemistry": "flask crystal reaction acid pigment foam catalyst flame",
        "physics": "pendulum magnet laser vacuum gyroscope lens friction wave",
        "robots": "servo gripper sensor drone code prototype walker circuit",
        "nature": "fungus volcano fossil beetle pollen tide lichen microscope",
    },
    "comedy": {
        "sketches": "office neighbour waiter boss misunderstanding punchline roommate interview",
        "pranks": "jump-scare balloon disguise hidden-camera whoopee-cushion swap fake surprise",
        "stand-up": "audience heckler one-liner stage crowd anecdote impression open-mic",
        "parody": "trailer advert news-desk tutorial soap-opera dubbing villain musical",
        "family": "toddler grandma bedtime homework dad-joke picnic siblings dinner",
    },
    "learning": {
        "languages": "grammar accent idiom vocabulary pronunciation flashcards verbs dialogue",
        "maths": "fraction proof triangle prime matrix integral graph equation",
        "history": "castle empire treaty pharaoh knight revolution map archive",
        "drawing": "sketchbook shading perspective portrait ink watercolour pencil outline",
        "money": "savings budget invoice interest rent spreadsheet pension discount",
    },
}

TOPIC_NAMES = tuple(topic for topics in CATEGORIES.values() for topic in topics)
TOPIC_WORDS = tuple(
    tuple(words.split()) for topics in CATEGORIES.values() for words in topics.values()
)
CATEGORY_NAMES = tuple(CATEGORIES)

N_CATEGORIES = len(CATEGORY_NAMES)
N_TOPICS = len(TOPIC_NAMES)
TOPICS_PER_CATEGORY = N_TOPICS // N_CATEGORIES
WORDS_PER_TOPIC = len(TOPIC_WORDS[0])

OPENERS = (
    "how to start with",
    "the truth about",
    "a day of",
    "my first",
    "three ideas for",
    "nobody tells you this about",
    "watch until the end:",
    "slow and quiet",
    "fast guide to",
    "again and again",
)
MOODS = ("perfect", "tiny", "forgotten", "giant", "cheap", "wild", "gentle", "strange")
LINKS = ("with", "and", "before", "after", "without", "versus")
CLOSERS = ("in one minute", "at home", "with friends", "at night", "on a budget", "part two", "")
COMMON_TAGS = ("daily", "tips", "funny", "fyp", "trending", "relax", "challenge", "newcomer")
