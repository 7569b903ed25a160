"""Word lists of English, by which the words of a caption that are no nouns are told from those that are."""


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _listed("""
    a an the this these those each every some any no both all another my your his her its our their whose one two
    three four five six seven eight nine ten eleven twelve many several few various numerous different other most
    more less enough
""")
PREPOSITIONS = _listed("""
    of in on at by with from for into onto over under above below near beside besides behind beneath between among
    amongst amid around across along against through throughout toward towards off inside outside beyond past during
    after before without within upon atop like as than about up down out via per underneath alongside aboard until
    since except
""")
#: Forms of "to be".
BE = _listed("""
    is are was were be been being am 's
""")
AUXILIARIES = BE | _listed("""
    has have had do does did can could will would may might must should shall let lets get gets
""")
PRONOUNS = _listed("""
    i you he she it they we him them us me who which what himself herself itself themselves someone somebody
    something everyone everything nobody nothing anyone anything ones here there where when while how why whom
""")
#: Adverbs, conjunctions and the like.
OTHERS = _listed("""
    and or but nor so if because though although not also too very just only even still already together apart away
    back forward almost then now again once twice quite rather else such yet ever never always often sometimes
    perhaps well ago ahead overhead nearby indoors outdoors upside downhill uphill upstairs downstairs barefoot
    side-by-side half alone aside maybe abroad front top next close right left yes okay hello please thanks
""")
ADJECTIVES = _listed("""
    red blue green yellow brown black white grey gray pink purple violet beige tan golden silvery colorful colourful
    colored bright dark pale blond blonde brunette big small large little tiny huge giant tall short long high low
    wide narrow thick thin deep shallow broad enormous massive mini medium full empty open closed old young new
    elderly modern ancient antique vintage fresh ripe raw hot cold warm cool wet dry clean dirty dusty muddy rusty
    messy cluttered neat tidy sandy snowy rainy sunny cloudy foggy stormy windy icy grassy rocky hilly leafy wooden
    woolen stainless plain fancy pretty beautiful lovely nice good bad best better worst great happy sad angry tired
    sleepy hungry thirsty lonely busy quiet loud calm crowded wild tame cute funny silly furry fluffy hairy bald fat
    slim skinny heavy soft hard smooth rough sharp round square flat steep straight curly tight loose electric
    electrical adult male female human real fake whole single double triple main same own first second third last
    early late fast slow quick lazy ready able asleep awake alive dead blind deaf sick healthy strong weak rich poor
    cheap clear shiny glossy transparent bare naked nude casual formal professional public private local foreign
    american chinese italian asian african indian european french mexican japanese polar coral urban rural
    residential military final rare common typical usual special unusual strange odd weird safe dangerous delicious
    tasty sweet sour salty spicy juicy creamy cheesy crispy steamy greasy vegetarian organic frozen broken worn torn
    unripe overripe overcast opposite similar various entire partial upper lower inner outer front rear middle far
    distant northern southern eastern western stray homeless pregnant topless bigger smaller larger taller shorter
    longer older younger higher newer biggest smallest largest tallest oldest youngest striped spotted plaid floral
    checkered bushy spiky fuzzy woolly scruffy shaggy shabby gloomy hazy misty murky lit unlit vacant light-colored
    multicolored stone-faced ornate elegant stylish rustic cozy comfortable snug spacious lush sparse bleak proud
    curious playful eager shy brave gentle friendly lively teenage ginger bronze sheer brand
""")
#: Words with an ending of adjectives, adverbs, participles or gerunds that are nouns all the same.
NOUNS_BY_ENDING = _listed("""
    animal hospital meal seal cereal medal metal pedal petal festival terminal mural capital canal signal jackal
    ritual material sandal bridal coal goal royal crystal local rental portal trial general oval deal veal traffic
    picnic music fabric plastic attic comic clinic garlic mosaic logic panic ceramic antic graphic family jelly
    belly butterfly fly lily assembly trolley monopoly reply supply ally bully dragonfly housefly bed shed seed weed
    sled moped bobsled feed bead thread biped hundred breed reed steed speed greed need bloodshed creed building
    ceiling railing awning evening morning clothing wedding string spring ring king wing thing lightning pudding
    icing frosting topping stuffing dressing filling sibling siding flooring earring clearing landing painting
    drawing crossing bedding lighting seating swing sling duckling gosling seedling wrapping meeting greeting
    scaffolding gathering stocking opening covering ending outing offering sting boxing cutting reading writing
    sewing surfing skiing skating snowboarding skateboarding cycling swimming fishing hiking camping shopping
    parking dining living baking olive detective relative native archive hive dive drive stove glove table cable
    vegetable stable fable syllable bible crucible dirigible constable fish dish radish brush bush rubbish polish
    finish parish kitchen garden chicken oven linen maiden women men children siren kitten mitten citizen pen den
    hen wren token warden heaven bus octopus cactus platypus hippopotamus campus virus circus walrus forest nest
    chest guest vest harvest priest west quest crest contest request interest
""")
#: Gerunds that are nouns in front of what they are for ("dining room"), or behind a determiner.
GERUND_NOUNS = _listed("""
    reading writing sewing surfing skiing skating snowboarding skateboarding cycling swimming fishing hiking camping
    shopping parking dining living baking cutting boxing washing frying sleeping
""")
#: Verbs in their base form, many of them nouns too.
VERBS = _listed("""
    sit wear hold carry eat bring take make give go come become keep put see seem say tell ask think know want need
    try use follow lead sell buy begin start happen appear remain contain include cover surround hang lean lie lay
    sleep wait sing teach learn read write speak listen hear feel smell grow fly swim ride drive walk jump leap
    climb crawl kneel squat crouch bend stretch grab grasp reach throw toss catch hit kick chase pull push lift drop
    pour fill mix stir cook bake fry boil grill chop slice peel wash wipe scrub sweep mop iron fold sew knit cut
    tear break fix repair build paint draw decorate arrange prepare serve deliver enjoy celebrate gather meet greet
    kiss hug laugh smile cry shout yell cheer talk chat discuss explain show point wave stare gaze glance peek watch
    observe examine inspect check adjust attach connect tie pack unpack load unload move roll slide glide float
    drift sink soar hover land perch rest nap lounge relax pose attempt perform practice compete run race skate ski
    surf paddle row sail dive splash spray drip spill blow burn melt graze munch chew bite nibble lick sniff drink
    sip feed pet groom brush shave comb dress sits stands goes does wears enjoys live stay travel cross pass
    approach enter leave exit board arrive depart return attend visit explore overlook face border line fall rise
    hide seek find lose win play stand look stop turn shine glow reflect spread scatter stack pile lurk wander
    stroll march trot gallop hop skip juggle balance swing spin twirl flip bounce steer pedal navigate operate fish
    hunt dig plant water trim mow rake shovel harvest pick collect sort count measure weigh cling huddle protect
    guard shelter stick share help steal attack fight bark meow roar howl chirp dance film photograph record type
    text work study do have be touch block shake score wind extend rub nuzzle snuggle cuddle yawn blink swat smash
    dribble volley putt bat pitch dunk park tow merge speed flow rush trickle flicker sway flap crown top flank
    adorn mount straddle hoist tilt tip strike strut rummage forage wade dodge duck scoop flock cruise ascend
    descend taxi refuel dock anchor tug sprint jog wag nod bow rock purr clap weave zoom whirl curl cough sneeze
    whisper pray vote cast plow drag shove squeeze twist bury polish rinse soak dip sprinkle knead simmer roast
    toast clip sharpen sketch carve mend ignore accept receive send invite welcome rescue escape
""")
#: Past forms that no ending shows.
PAST_FORMS = _listed("""
    sat stood wore held ate brought took made gave went came kept seen shown said told thought knew led sold bought
    begun began hung lay laid slept sang taught spoke heard felt grown flown swum rode ridden drove driven leapt
    crept knelt bent grabbed threw thrown caught hit cut torn broke built drew drawn met ran rose fell fallen found
    lost won shone spread sprang swung spun dug stuck shook shot stole fought beaten set eaten given taken gone done
    written worn laden woven sunk shut blown bitten hidden chosen left
""")
#: Those of the verbs that are nouns as often.
NOUN_TOO = _listed("""
    walk ride drive show face line board cross pass watch brush comb dress pet feed drink bite spray splash row sail
    surf race run paint mix slice stick iron mop wave smile cry kiss hug laugh talk chat look stop turn play stand
    stay rest nap land roll slide load pack tie check point visit record film type text work study dance fish plant
    water rake shovel harvest bark pile stack swing spin flip balance pedal help fight guard shelter block share top
    border cover fall rise jump leap climb dive catch throw kick hit toss pull push lift drop cut tear break fix
    repair build draw return exit wind grill cook fry bat pitch park shake score count pick scatter ski skate paddle
    start use fly reach stretch glow shine touch crown mount tip strike speed flow rush dock anchor tug duck flock
    cruise taxi scoop sink leave bounce hop glance stare gaze peek practice attack hunt march stroll trot
""")
#: Those that mostly are nouns behind another noun ("finish line", "bus seats").
MOSTLY_NOUNS = _listed("""
    line board brush comb dress pet plant water fish text film record type shelter block border top load pack tie
    cover bat park score dock anchor duck flock taxi scoop pile stack mop iron stick slice rake shovel grill cook
    crown tip harvest bark pick mount pedal cruise shot set tow guard lounge pitch
""")
#: Words that verbs without an "s" follow.
PLURALS = _listed("""
    people men women children kids sheep deer fish geese mice feet teeth cattle police they who two three four
    several
""")
