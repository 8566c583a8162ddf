MIXERS = ()
