; A kernel starts no other.
; expect: structure: kernel 0 `nothing`: instruction 0 (`chain`): in a kernel stream
object "chain-in-kernel" target "mtia-300" hbm 1024 sram 0

kernel k0 "nothing" grid 1x1x1x1 {
  code:
    chain #0
    halt
}

entry e0 "main" {
  launch #0 k0 ()
  code:
    launch #0
    halt
}

weights 0 {
}
